//! `provider seal`: the share of a provider's keys goes to the TPM.

use std::path::{Path, PathBuf};

use clap::Args;

use super::provider_name;
use crate::cli::progress::perform;
use crate::error::{Context, Result};
use crate::key::ProviderName;
use crate::operations::provider::SealShare;
use crate::provider::{Pcrs, Sealed};
use crate::text::Show;

/// Arguments of `provider seal`.
#[derive(Args, Debug)]
pub struct SealArgs {
    /// Name of the provider
    #[arg(value_parser = provider_name)]
    name: ProviderName,
    /// The file that has the share; needed when it is sealed already
    #[arg(long, value_name = "FILE")]
    share: Option<PathBuf>,
    /// The TPM: a device, or the socket of an emulator [default: /dev/tpmrm0]
    #[arg(long, value_name = "PATH")]
    tpm: Option<PathBuf>,
    /// PCRs of the SHA-256 bank, such as 7,11: the TPM unseals only while they have the values of now
    #[arg(long, value_name = "NUMBERS", value_parser = Pcrs::parse)]
    pcrs: Option<Pcrs>,
}

impl SealArgs {
    pub(super) fn run(&self, config: &Path) -> Result<()> {
        let (share, tpm) = (absolute(self.share.as_deref())?, absolute(self.tpm.as_deref())?);
        let name = &self.name;
        let pcrs = self.pcrs.unwrap_or_default();
        let sealed = perform(SealShare { name, share: share.as_deref(), tpm: tpm.as_deref(), pcrs, config })?;
        let Sealed { uuid, file, tpm, copy } = sealed;
        println!("sealed kek-share {uuid} of {name} to the TPM {} in {}", tpm.shown(), file.shown());
        eprintln!(
            "{} opens the keys of {name} without this TPM. Keep it, and not on this host: what the TPM has is lost when it \
             breaks or is cleared.",
            copy.shown()
        );
        Ok(())
    }
}

/// Paths of the configuration begin at its folder, those of a command line at the current one.
fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>> {
    path.map(|path| std::path::absolute(path).context(|| format!("finding {}", path.shown()))).transpose()
}
