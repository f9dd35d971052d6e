//! Words of `-o`: those that are settings of our own become what the options of the same names say; the rest is of the mount.

use std::path::{Path, PathBuf};

use crate::cli::mount::{DEFAULT_MINUTES, MountArgs, parse_metrics, parse_minutes, parse_threads, parse_wait};
use crate::error::{Error, Kind, Result};
use crate::text::Show;

impl MountArgs {
    /// Takes the settings out of the words of `-o`, which count more than options, and leaves the others one by one. Returns the
    /// configuration file, if one of them names it.
    ///
    /// # Errors
    /// `Invalid` for a value that is none, and for `remount`.
    pub(super) fn take_settings(&mut self) -> Result<Option<PathBuf>> {
        let mut config = None;
        let words: Vec<String> = self.options.iter().flat_map(|list| split(list)).map(str::to_owned).collect();
        self.options.clear();
        if words.iter().any(|word| word == "remount") {
            return Err(remount(&words, &self.mountpoint));
        }
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            match (name, word.contains('=')) {
                ("config", true) => config = Some(PathBuf::from(value)),
                ("log-file", true) => self.log_file = Some(PathBuf::from(value)),
                ("transport", true) => self.transport = value.parse()?,
                ("backing-io", true) => self.backing_io = value.parse()?,
                ("engine", true) => self.engine = Some(value.parse()?),
                ("metrics", true) => self.metrics = Some(parse_metrics(value).map_err(|why| invalid(&word, &why))?),
                ("threads", true) => self.threads = Some(parse_threads(value).map_err(|why| invalid(&word, &why))?),
                ("hand-over", true) => self.hand_over = parse_wait(value).map_err(|why| invalid(&word, &why))?,
                ("wait", true) => self.wait = Some(parse_wait(value).map_err(|why| invalid(&word, &why))?),
                ("manifest", has_value) => {
                    let minutes = if has_value { value } else { DEFAULT_MINUTES };
                    self.manifest = Some(parse_minutes(minutes).map_err(|why| invalid(&word, &why))?);
                }
                ("require-unlocked", false) => self.require_unlocked = true,
                ("empty", false) => self.empty = true,
                ("force-locks", false) => self.force_locks = true,
                _ => self.options.push(word),
            }
        }
        Ok(config)
    }
}

/// The kernel changes a mount that is there; mount(8) asks a helper first, unless `-i` forbids it. What is not told is as for a new
/// mount, and so are `suid` and `dev`.
fn remount(words: &[String], mountpoint: &Path) -> Error {
    const OF_THE_KERNEL: [&str; 14] = [
        "ro",
        "rw",
        "sync",
        "async",
        "dirsync",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "strictatime",
        "lazytime",
    ];
    let kept: Vec<&str> = words.iter().map(String::as_str).filter(|word| OF_THE_KERNEL.contains(word)).collect();
    let message = format!(
        "a mount that is there is changed by the kernel, without a helper: `mount -i -o {} {}`",
        [&["remount,nosuid,nodev"], &kept[..]].concat().join(","),
        mountpoint.shown()
    );
    Error::new(Kind::Invalid, message)
}

fn invalid(word: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, format!("mount option {word:?}: {why}"))
}

/// At commas, but not within double quotes, which values of SELinux have.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::fuse::transport::Transport;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        mount: MountArgs,
    }

    fn mount(options: &[&str]) -> MountArgs {
        Line::parse_from([&["mount", "/vms", "/mnt"], options].concat()).mount
    }

    #[test]
    fn a_remount_is_left_to_the_kernel() {
        let error = mount(&["-o", "rw,remount", "-o", "ro,wait=5s"]).take_settings().unwrap_err();
        assert!(error.chain().ends_with("`mount -i -o remount,nosuid,nodev,rw,ro /mnt`"), "{}", error.chain());
    }

    #[test]
    fn settings_are_taken_from_options_and_the_last_one_counts() {
        let mut args = mount(&[
            "--transport",
            "io-uring",
            "-o",
            "ro,transport=dev-fuse,wait=5",
            "-o",
            "wait=2m,threads=3,nofail,empty,manifest=5",
        ]);
        assert_eq!(args.take_settings().unwrap(), None);
        assert_eq!((args.transport, args.threads, args.empty), (Transport::DevFuse, Some(3), true));
        assert_eq!((args.wait, args.manifest), (Some(Duration::from_secs(120)), Some(Duration::from_secs(300))));
        assert_eq!((args.options.join(" "), args.require_unlocked), ("ro nofail".into(), false));
        let mut args = mount(&["-o", "config=/c.toml,require-unlocked,manifest,log-file=/l,context=\"a:b,c\",rw"]);
        assert_eq!(args.take_settings().unwrap(), Some(PathBuf::from("/c.toml")));
        assert_eq!(args.manifest, Some(Duration::from_secs(600)));
        assert!(args.require_unlocked && args.log_file == Some("/l".into()));
        assert_eq!(args.options, ["context=\"a:b,c\"", "rw"]);
    }

    #[test]
    fn values_that_are_none_are_refused() {
        for word in ["transport=x", "threads=0", "threads=", "wait=soon", "backing-io=", "engine=fast"] {
            assert!(mount(&["-o", word]).take_settings().is_err(), "{word}");
        }
    }
}
