//! VM folders and files that get another form: encrypted, decrypted, as disk or home file, copied under other keys.

use std::path::Path;

use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Result};
use crate::event::EventName;
use crate::gate::{Object, Operation, Trail};
use crate::operations::made::remember;
use crate::operations::manifest::{Meaning, keeping_manifest};
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::text::Show;
use crate::vm::access::Located;
use crate::work::convert::{
    self, Believed, CloneOptions, ClonePlan, Cloned, Converted, ConvertedFile, DecryptScope, Decryption, Encryption,
    FilePlan, Options, Plan, StoredAs, convert_file, plan_clone, plan_file,
};

/// Gives a VM folder, or disks of one, their other form. An event for each component that gets it.
pub struct ConvertVm<'a, C> {
    /// The VM folder.
    pub folder: &'a Path,
    /// Which form, and what of the folder gets it.
    pub to: C,
    /// Whether it is only looked at.
    pub dry_run: bool,
    /// Configuration file.
    pub config: &'a Path,
}

/// A way to convert a VM folder.
pub trait Conversion {
    /// The name of the operation.
    const NAME: EventName;

    /// Whether the home itself gets the other form.
    fn takes_home(&self) -> bool;

    /// Looks at a folder, and converts it unless only that is meant; tells `converted` of each component that is done.
    ///
    /// # Errors
    /// Those of the conversion.
    fn run(
        self,
        vm: (&Path, &Providers),
        dry_run: bool,
        on_progress: OnProgress<'_>,
        converted: &mut dyn FnMut(Converted<'_>),
    ) -> Result<Plan>;
}

/// To ciphertext.
impl Conversion for Options {
    const NAME: EventName = EventName::Encrypt;

    fn takes_home(&self) -> bool {
        false // one that is encrypted already stays as it is
    }

    fn run(
        self,
        (folder, providers): (&Path, &Providers),
        dry_run: bool,
        on_progress: OnProgress<'_>,
        converted: &mut dyn FnMut(Converted<'_>),
    ) -> Result<Plan> {
        let encryption = Encryption::prepare(folder, providers, self, &mut *on_progress)?;
        if dry_run { Ok(encryption.rehearse()) } else { encryption.run(on_progress, converted) }
    }
}

/// To plaintext.
pub struct Decrypting {
    /// What gets it.
    pub what: DecryptScope,
    /// What is believed of it.
    pub believed: Believed,
}

impl Conversion for Decrypting {
    const NAME: EventName = EventName::Decrypt;

    fn takes_home(&self) -> bool {
        self.what.has_home()
    }

    fn run(
        self,
        (folder, providers): (&Path, &Providers),
        dry_run: bool,
        on_progress: OnProgress<'_>,
        converted: &mut dyn FnMut(Converted<'_>),
    ) -> Result<Plan> {
        let Self { what, believed } = self;
        let engine = Engine::default();
        let decryption = Decryption::prepare(folder, providers, what, believed, engine, &mut *on_progress)?;
        if dry_run { decryption.rehearse() } else { decryption.run(on_progress, converted) }
    }
}

impl<C: Conversion> Operation for ConvertVm<'_, C> {
    const NAME: EventName = C::NAME;
    type Outcome = Plan;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Plan> {
        trail.in_parts();
        let providers = Providers::load(self.config)?;
        let (folder, dry_run) = (self.folder, self.dry_run);
        let takes_home = self.to.takes_home();
        let run = |on_progress: OnProgress<'_>| {
            self.to.run((folder, &providers), dry_run, on_progress, &mut |converted| record(trail, &converted))
        };
        // What is decrypted as a whole is judged by its manifest to the end.
        if dry_run || takes_home {
            return run(on_progress);
        }
        let plan = keeping_manifest(folder, &providers, Meaning::SameHome, on_progress, run)?;
        if C::NAME == EventName::Encrypt {
            remember(folder, &providers);
        }
        Ok(plan)
    }
}

fn record(trail: &mut Trail, Converted { path, is_disk, uuid, key_id }: &Converted<'_>) {
    let path = path.to_path_buf();
    let object = if *is_disk { Object::Disk(path) } else { Object::Folder(path) };
    trail.part(&object, |event| _ = event.uuid(*uuid).key(key_id));
}

/// Makes a file of an encrypted VM folder a disk, or a disk a home file.
pub struct ConvertFile<'a> {
    /// As it was named.
    pub file: &'a Path,
    /// Where it lies.
    pub located: &'a Located,
    /// What it becomes.
    pub to: StoredAs,
    /// Where keys come from.
    pub providers: &'a Providers,
}

impl Operation for ConvertFile<'_> {
    const NAME: EventName = EventName::Convert;
    type Outcome = ConvertedFile;

    fn object(&self) -> Object {
        Object::Disk(self.file.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<ConvertedFile> {
        let Located { folder, component } = self.located;
        let convert =
            |on_progress: OnProgress<'_>| convert_file(folder, component.path(), self.to, self.providers, on_progress);
        let done = keeping_manifest(folder, self.providers, Meaning::SameHome, on_progress, convert)
            .map_err(|error| naming(folder, error))?;
        trail.event().uuid(done.uuid).key(&done.key_id);
        Ok(done)
    }
}

/// Looks at what [`ConvertFile`] would do. It leaves no event: nothing is done.
pub struct PlanFile<'a>(pub ConvertFile<'a>);

impl Operation for PlanFile<'_> {
    const NAME: EventName = ConvertFile::NAME;
    type Outcome = FilePlan;

    fn object(&self) -> Object {
        self.0.object()
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<FilePlan> {
        trail.in_parts();
        let Located { folder, component } = self.0.located;
        plan_file(folder, component.path(), self.0.to, self.0.providers, on_progress)
            .map_err(|error| naming(folder, error))
    }
}

/// The error with the folder's path, once.
fn naming(folder: &Path, error: Error) -> Error {
    let path = folder.shown().to_string();
    if error.chain().contains(&path) { error } else { Error::with_source(error.kind(), path, error) }
}

/// Copies a VM folder, under keys of its own or with its keys.
pub struct CloneVm<'a> {
    /// The VM folder.
    pub source: &'a Path,
    /// The new one.
    pub destination: &'a Path,
    /// How.
    pub options: CloneOptions,
    /// Where keys come from.
    pub providers: &'a Providers,
}

impl CloneVm<'_> {
    /// What the event says. By the last words `erase` of the source knows that its keys open the clone.
    pub fn reason(source: &Path, same_keys: bool) -> String {
        format!("from {}{}", source.shown(), if same_keys { ", with its keys" } else { "" })
    }
}

impl Operation for CloneVm<'_> {
    const NAME: EventName = EventName::Clone;
    type Outcome = Cloned;

    fn object(&self) -> Object {
        Object::Folder(self.destination.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Cloned> {
        let Self { source, destination, options, providers } = self;
        let whole = std::fs::canonicalize(source).context(|| format!("finding {}", source.shown()))?;
        let cloned = convert::clone(source, destination, providers, &options, on_progress)?;
        trail.event().uuid(cloned.uuid).key(&cloned.key_id).reason(Self::reason(&whole, options.same_keys));
        remember(destination, providers);
        Ok(cloned)
    }
}

/// Looks at what [`CloneVm`] would do. It leaves no event: nothing is done.
pub struct PlanClone<'a>(pub CloneVm<'a>);

impl Operation for PlanClone<'_> {
    const NAME: EventName = CloneVm::NAME;
    type Outcome = ClonePlan;

    fn object(&self) -> Object {
        self.0.object()
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<ClonePlan> {
        trail.in_parts();
        let CloneVm { source, destination, options, providers } = self.0;
        plan_clone(source, destination, providers, &options, on_progress)
    }
}
