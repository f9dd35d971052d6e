//! A provider's share, sealed to the TPM of this host: from then on the file of the share is a copy that belongs elsewhere.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::config;
use super::kek_share::KekShare;
use super::kind::Configured;
use super::sealed_share::SealedShare;
use super::tpm::Pcrs;
use crate::error::{Error, Kind, Result};
use crate::key::ProviderName;

/// What was sealed, and where.
#[derive(Debug)]
pub struct Sealed {
    /// UUID of the share.
    pub uuid: Uuid,
    /// The file that has it for the TPM.
    pub file: PathBuf,
    /// The way to the TPM.
    pub tpm: PathBuf,
    /// The file that it was read from.
    pub copy: PathBuf,
}

/// Seals the share of a provider to the TPM that `tpm` leads to, else to the one that is configured, and configures the provider
/// to have it unsealed. It is read from the file `share`, else from the one that is configured.
///
/// # Errors
/// `NotFound` when the provider is not configured; `Invalid` when it has no share, or it is not said where that is; `Denied` when
/// its keys have another share; those of [`KekShare::load`] and [`SealedShare::seal`].
pub fn seal_share(
    config: &Path,
    name: &ProviderName,
    share: Option<&Path>,
    tpm: Option<&Path>,
    pcrs: Pcrs,
) -> Result<Sealed> {
    config::update(config, |configured| {
        let settings = configured.settings(name)?.clone();
        let provider = Configured { name, settings: &settings, config };
        if !settings.has_kek_share() {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "provider {name} has no kek-share: its keys are whole. Add the provider under another name with --kek-share, \
                     and rekey to that one"
                ),
            ));
        }
        let copy = share.map(Path::to_path_buf).or_else(|| settings.kek_share_file(config)).ok_or_else(|| {
            let advice = "name the file that has a copy of it with --share";
            Error::new(Kind::Invalid, format!("the share of provider {name} is sealed already: {advice}"))
        })?;
        let share = KekShare::load(&copy)?;
        refuse_another(&provider, &share)?;
        let tpm = tpm.map_or_else(|| settings.tpm_of(config), Path::to_path_buf);
        let file = provider.sealed_share();
        SealedShare::seal(&share, &tpm, pcrs)?.store(&file)?;
        configured.set(name, settings.sealed_to(&tpm)?)?;
        Ok(Sealed { uuid: share.uuid(), file, tpm, copy })
    })
}

/// Refuses a share that is not the one which the provider's keys have, as far as that is known on this host.
fn refuse_another(provider: &Configured<'_>, share: &KekShare) -> Result<()> {
    let known = match provider.settings.kek_share_file(provider.config) {
        Some(file) => KekShare::load(&file).map(|known| known.uuid()),
        None => SealedShare::load(&provider.sealed_share()).map(|known| known.uuid()),
    };
    match known {
        Ok(known) if known != share.uuid() => Err(Error::new(
            Kind::Denied,
            format!("the keys of provider {} have share {known}, this is {}", provider.name, share.uuid()),
        )),
        // What is lost or damaged is what this repairs.
        Err(error) if !matches!(error.kind(), Kind::KeyUnavailable | Kind::Corrupt) => Err(error),
        _ => Ok(()),
    }
}
