//! Raw images of VMDKs, in the directory `.raw` of a VM folder.
//!
//! The directory is not on disk, and not listed, so that what copies or removes a VM folder with all that it holds does
//! not meet its disks twice. An open image uses the same open files as programs that open its extents under their own names.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use rustix::fs::FileType;
use vmdk_layout::DiskFile;

use crate::error::{Context, Error, Kind, Result};
use crate::fs::handle::{Handle, HandleNumber};
use crate::fs::modes::Rights;
use crate::fs::node::{Node, NodeKind, NodeNumber, Place};
use crate::fs::open_image::{ImageNode, OpenImage};
use crate::fs::stat::Stat;
use crate::fs::{Attr, CacheMode, Caller, FileKind, FileSystem, backing};
use crate::serve::{FileUse, OpenFile, Purpose};
use crate::storage::Access;
use crate::store::plain_file::PlainFile;
use crate::sys::file;
use crate::text::Show;
use crate::vm::vmdk::{self, VmFiles};

/// The directory's name in a VM folder.
pub(super) const IMAGE_DIRECTORY: &str = ".raw";

/// The bits of a mode that allow writing.
const WRITE_BITS: u16 = 0o222;

/// Directories of images, and images in them, by where they are.
#[derive(Default)]
pub(super) struct ImageNodes(Mutex<HashMap<(NodeNumber, OsString), NodeNumber>>);

impl Node {
    fn is_vm(&self) -> bool {
        matches!(self.kind, NodeKind::Directory(Place::Vm))
    }

    /// Whether it is not on disk.
    pub(super) fn is_virtual(&self) -> bool {
        matches!(self.kind, NodeKind::ImageDirectory | NodeKind::Image(_))
    }
}

/// Refuses to make, rename or remove the directory of images. One that is on disk (it came from elsewhere) is like any
/// other, and hides the images.
pub(super) fn refuse_image_directory(parent: &Node, dir: &File, name: &OsStr) -> Result<()> {
    if parent.is_vm() && name == IMAGE_DIRECTORY && backing::stat_at(dir, name).is_err() {
        return Err(read_only());
    }
    Ok(())
}

/// Refuses what cannot be done to something that is not on disk.
pub(super) fn refuse_virtual(node: &Node) -> Result<()> {
    if node.is_virtual() { Err(read_only()) } else { Ok(()) }
}

/// The refusal of every change but that of an image's content.
fn read_only() -> Error {
    Error::new(Kind::Denied, format!("{IMAGE_DIRECTORY} shows VMDKs as raw images; only their content can be changed"))
}

impl FileSystem {
    /// Finds what is not on disk: the directory of images in a VM folder, or an image in that.
    pub(super) fn lookup_virtual(&self, parent: &Node, name: &OsStr) -> Result<Attr> {
        let absent = || Error::new(Kind::NotFound, format!("{} does not exist", name.shown()));
        let kind = if parent.is_vm() && name == IMAGE_DIRECTORY {
            NodeKind::ImageDirectory
        } else if matches!(parent.kind, NodeKind::ImageDirectory) {
            let (_, dir) = self.vm_folder(parent)?;
            vmdk::vmdk_name(name, file_names(&dir)?).ok_or_else(absent)?;
            NodeKind::Image(ImageNode::default())
        } else {
            return Err(absent());
        };
        let node = self.image_nodes.node(self, (parent.number, name.to_os_string()), kind)?;
        self.attributes(node.number).inspect_err(|_| self.nodes.forget(node.number, 1))
    }

    /// Attributes of what is not on disk.
    pub(super) fn virtual_attributes(&self, node: &Node) -> Result<Attr> {
        let (vm, dir) = self.vm_folder(node)?;
        let NodeKind::Image(image) = &node.kind else {
            let mut attr = Attr::new(node.id(), FileKind::Directory, &backing::stat(&dir)?, 0, 0);
            attr.mode &= !WRITE_BITS;
            attr.links = 2;
            attr.lasting = false;
            return Ok(attr);
        };
        let (_, name) = self.nodes.name(node)?;
        if let Some(vmdk) = vmdk::vmdk_name(&name, file_names(&dir)?) {
            let stat = backing::stat_at(&dir, &vmdk)?;
            let folder = ImageFolder::new(self, (vm, dir));
            return match vmdk::describe(&folder, &vmdk).context(|| vmdk.shown().to_string())? {
                Some(disk) => Ok(self.image_attributes(node, &stat, &disk, &folder.dir)),
                None => Err(Error::new(Kind::NotFound, format!("{} is not a VMDK", vmdk.shown()))),
            };
        }
        // Its VMDK was removed or renamed, but open handles still work.
        let open = image.0.lock().upgrade();
        let described = open.as_deref().and_then(|OpenImage { image, .. }| Some((image, image.descriptor()?)));
        let Some((image, descriptor)) = described else {
            return Err(Error::new(Kind::NotFound, format!("{} does not exist any more", name.shown())));
        };
        let stat = backing::stat(descriptor.storage().file())?;
        Ok(Attr::new(node.id(), FileKind::Regular, &stat, image.plain_len(), 0))
    }

    /// Does `work` with what the permissions of something not on disk are those of: an image's VMDK, or the VM folder.
    pub(super) fn with_original<T>(&self, node: &Node, work: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        let (_, dir) = self.vm_folder(node)?;
        let NodeKind::Image(image) = &node.kind else { return work(&dir) };
        let (_, name) = self.nodes.name(node)?;
        if let Some(vmdk) = vmdk::vmdk_name(&name, file_names(&dir)?) {
            return work(&backing::any_at(&dir, &vmdk)?);
        }
        // Its VMDK was removed or renamed, but open handles still work.
        let open = image.0.lock().upgrade();
        match open.as_deref().and_then(|open| open.image.descriptor()) {
            Some(descriptor) => work(descriptor.storage().file()),
            None => Err(Error::new(Kind::NotFound, format!("{} does not exist any more", name.shown()))),
        }
    }

    fn image_attributes(&self, node: &Node, stat: &Stat, disk: &DiskFile, dir: &File) -> Attr {
        let size = disk.descriptor().map_or(0, vmdk_layout::Descriptor::len);
        let extents = match disk {
            DiskFile::Descriptor(descriptor) => descriptor.files().unwrap_or_default(),
            DiskFile::Monolithic { .. } | DiskFile::Extent(_) => Vec::new(),
        };
        let taken = |name: &vmdk_layout::FileName| {
            let blocks = |name: &OsStr| backing::stat_at(dir, name).map(|it| it.st_blocks);
            let mut exact = name.spellings().filter_map(|name| blocks(OsStr::from_bytes(name)).ok());
            let resembling = || blocks(&vmdk::meant(name, file_names(dir).ok()?).ok()?).ok();
            exact.next().or_else(resembling).unwrap_or(0)
        };
        let blocks = if extents.is_empty() { stat.st_blocks } else { extents.iter().map(taken).sum() };
        let mut attr = Attr::new(node.id(), FileKind::Regular, stat, size, u64::try_from(blocks).unwrap_or(0));
        if self.served.options().read_only || !vmdk::is_writable(disk) {
            attr.mode &= !WRITE_BITS;
        }
        attr.links = 1;
        attr.lasting = false;
        attr
    }

    /// Opens an image. Its files are opened for writing only when it is.
    pub(super) fn open_image(
        &self,
        node: &Node,
        image: &ImageNode,
        access: Access,
        caller: &Caller,
    ) -> Result<HandleNumber> {
        let (vm, dir) = self.vm_folder(node)?;
        let (_, name) = self.nodes.name(node)?;
        let vmdk = vmdk::vmdk_name(&name, file_names(&dir)?).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("the VMDK of {} does not exist any more", name.shown()))
        })?;
        let mut folder = ImageFolder::new(self, (vm, dir));
        folder.user = Some(caller.uid);
        let opened = vmdk::open(&folder, &vmdk).context(|| self.name(node.number))?;
        if access == Access::Write {
            if !opened.is_writable() {
                let message =
                    format!("{}: only a disk of flat RW extents without a parent can be written", name.shown());
                return Err(Error::new(Kind::ReadOnly, message));
            }
            let writing = opened.extents().map(|extent| extent.begin(Purpose::Write)).collect::<Result<Vec<_>>>();
            folder.uses.borrow_mut().extend(writing.context(|| self.name(node.number))?);
        }
        let (nodes, uses) = folder.into_used();
        let open = Arc::new(OpenImage { image: opened, durable: AtomicBool::default(), nodes, _uses: uses });
        *image.0.lock() = Arc::downgrade(&open);
        Ok(self.handles.insert(Handle::Image(open)))
    }

    /// Names of the images of a VM folder.
    pub(super) fn image_names(&self, node: &Node) -> Result<Vec<OsString>> {
        let (vm, dir) = self.vm_folder(node)?;
        let mut vmdks = BTreeMap::new();
        for name in file_names(&dir)? {
            if let Some(raw) = vmdk::raw_name(&name) {
                let first = vmdks.entry(raw).or_insert_with(|| name.clone());
                if name < *first {
                    *first = name;
                }
            }
        }
        let folder = ImageFolder::new(self, (vm, dir));
        // What cannot be read now is shown: opening it tells why.
        let shown = |vmdk: &OsStr| vmdk::describe(&folder, vmdk).map_or(true, |disk| disk.is_some());
        Ok(vmdks.into_iter().filter(|(_, vmdk)| shown(vmdk)).map(|(name, _)| name).collect())
    }

    /// Lets go of the nodes that a closed image kept known.
    pub(super) fn forget_files(&self, open: &OpenImage) {
        open.nodes.iter().for_each(|number| self.nodes.forget(*number, 1));
    }

    /// The VM folder that something not on disk belongs to, and its backing directory.
    fn vm_folder(&self, node: &Node) -> Result<(Arc<Node>, Arc<File>)> {
        let vm = self.nodes.vm_of(node)?;
        self.directory(vm.number)
    }
}

impl ImageNodes {
    fn node(&self, fs: &FileSystem, place: (NodeNumber, OsString), kind: NodeKind) -> Result<Arc<Node>> {
        let mut known = self.0.lock();
        if let Some(node) = known.get(&place).and_then(|number| fs.nodes.found_again(*number)) {
            return Ok(node);
        }
        if known.len().is_power_of_two() {
            known.retain(|_, number| fs.nodes.get(*number).is_ok()); // now and then: those that were forgotten
        }
        let node = fs.nodes.add_virtual(place.0, &place.1, kind)?;
        known.insert(place, node.number);
        Ok(node)
    }
}

/// Names of the regular files in a directory.
fn file_names(dir: &File) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    let doing = || "reading the folder".into();
    for entry in file::entries(dir).context(doing)? {
        let entry = entry.context(doing)?;
        if matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string());
        }
    }
    Ok(names)
}

/// Opens files of a VM folder through their nodes, as the kernel does.
struct ImageFolder<'f> {
    fs: &'f FileSystem,
    vm: Arc<Node>,
    dir: Arc<File>,
    used: RefCell<Vec<NodeNumber>>,
    uses: RefCell<Vec<FileUse>>,
    /// The user who has the files open from now on, if they are for more than one operation.
    user: Option<u32>,
}

impl<'f> ImageFolder<'f> {
    fn new(fs: &'f FileSystem, (vm, dir): (Arc<Node>, Arc<File>)) -> Self {
        Self { fs, vm, dir, used: RefCell::default(), uses: RefCell::default(), user: None }
    }

    /// The nodes that were used, which the caller forgets, and what their files are used for.
    fn into_used(self) -> (Vec<NodeNumber>, Vec<FileUse>) {
        (self.used.take(), self.uses.take())
    }
}

impl VmFiles for ImageFolder<'_> {
    type File = OpenFile;

    fn open(&self, name: &OsStr) -> Result<Arc<OpenFile>> {
        let (node, _) = self.fs.find(&self.vm, &self.dir, name)?;
        self.used.borrow_mut().push(node.number);
        let open = self.fs.open_node_for(&node, Access::Read, CacheMode::Kernel, self.user, Rights::Process)?;
        if self.user.is_some() {
            self.uses.borrow_mut().push(open.shared().begin(Purpose::ReadStable)?);
        }
        Ok(Arc::clone(open.shared()))
    }

    fn names(&self) -> Result<Vec<OsString>> {
        file_names(&self.dir)
    }
}

impl Drop for ImageFolder<'_> {
    fn drop(&mut self) {
        self.used.take().into_iter().for_each(|number| self.fs.nodes.forget(number, 1));
    }
}
