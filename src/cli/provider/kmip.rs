//! KMIP key servers: added and tested.

use std::path::{Path, PathBuf};

use super::provider_name;
use crate::error::{Context, Error, Kind, Result};
use crate::key::ProviderName;
use crate::provider::add_kmip;
use crate::provider::kinds::kmip::{Address, KmipProvider, MemberReport, Servers, Settings};
use crate::text::Show;

/// Of `provider add kmip`.
#[derive(clap::Args, Debug)]
pub struct AddKmipArgs {
    /// Name of the provider; permanent, since every key belongs to it
    #[arg(value_parser = provider_name)]
    name: ProviderName,
    /// A member of the key server's cluster; repeatable. The port is 5696 by default
    #[arg(long = "server", value_name = "HOST:PORT", required = true)]
    servers: Vec<Address>,
    /// Certificates (PEM) that those of the servers are checked against
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// This host's certificate (PEM), which the servers know it by
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The private key (PEM) of the certificate, readable only by its owner
    // PEM itself, which begins with hyphens, would else be taken for an option and quoted.
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    key: PathBuf,
    /// New VMs get their keys from it; the first provider is the default in any case
    #[arg(long)]
    default: bool,
}

impl AddKmipArgs {
    pub(super) fn name(&self) -> &ProviderName {
        &self.name
    }
}

pub(super) fn add(config: &Path, args: &AddKmipArgs) -> Result<()> {
    let servers = Servers::try_from(args.servers.clone()).map_err(|flaw| Error::new(Kind::Invalid, flaw))?;
    let file = |path: &Path| std::path::absolute(path).context(|| format!("finding {}", path.shown()));
    let settings = Settings::of(servers, file(&args.ca)?, file(&args.cert)?, file(&args.key)?);
    add_kmip(config, &args.name, settings, args.default)?;
    let name = &args.name;
    println!("added key provider {name}");
    eprintln!("To see that its servers work:\n  vmcryptfs provider test {name}");
    Ok(())
}

pub(super) fn test(config: &Path, name: &ProviderName, settings: &Settings) -> Result<()> {
    let testing = || format!("testing key provider {name}");
    let provider = KmipProvider::new(name.clone(), settings, config).context(testing)?;
    let reports = provider.probe().context(testing)?;
    for report in &reports {
        print!("{}", shown(report));
    }
    println!("this host's certificate: {}", ends_in(provider.certificate_days()));
    for notice in crate::provider::KeyProvider::take_notices(&provider) {
        eprintln!("{notice}");
    }
    let failed = reports.iter().filter(|report| report.failure.is_some()).count();
    match failed {
        0 => Ok(()),
        _ => Err(Error::new(
            Kind::KeyUnavailable,
            format!("{failed} of {} members of key provider {name} failed", reports.len()),
        )),
    }
}

fn shown(report: &MemberReport) -> String {
    let mut lines = format!("{}\n", report.server);
    let mut line = |what: &str, text: String| lines += &format!("  {what:18}  {text}\n");
    if let Some(tls) = &report.tls {
        line("reached", format!("yes, {tls}"));
        line("server certificate", ends_in(report.server_certificate_days));
    }
    if let Some(version) = report.version {
        let known: Vec<String> = report.versions.iter().map(ToString::to_string).collect();
        line("KMIP", format!("{version}, of {}", known.join(", ")));
    }
    if let Some(vendor) = &report.vendor {
        line("vendor", vendor.clone());
    }
    if let Some(time) = report.round_trip {
        line("key", format!("made, activated, fetched and destroyed in {} ms", time.as_millis()));
    }
    if let Some(kept) = report.keeps_attributes {
        line("custom attributes", if kept { "kept" } else { "not kept, which is harmless" }.into());
    }
    match &report.failure {
        Some(failure) => line("FAILED", failure.to_string()),
        None => line("works", "yes".into()),
    }
    lines
}

fn ends_in(days: Option<i64>) -> String {
    match days {
        Some(days) if days < 0 => format!("EXPIRED {} days ago", -days),
        Some(days) => format!("expires in {days} days"),
        None => "expiry date unreadable".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_how_far_a_member_came() {
        let unreached = MemberReport { server: "kms1:5696".into(), ..MemberReport::default() };
        assert_eq!(shown(&unreached), "kms1:5696\n  works               yes\n");
        let reached = MemberReport {
            tls: Some("TLS 1.2".into()),
            server_certificate_days: Some(-3),
            versions: vec!["1.4".parse().unwrap(), "1.2".parse().unwrap()],
            version: "1.2".parse().ok(),
            keeps_attributes: Some(false),
            ..unreached
        };
        assert_eq!(
            shown(&reached),
            "kms1:5696\n  reached             yes, TLS 1.2\n  server certificate  EXPIRED 3 days ago\n  \
             KMIP                1.2, of 1.4, 1.2\n  custom attributes   not kept, which is harmless\n  \
             works               yes\n"
        );
    }
}
