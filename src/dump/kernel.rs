//! What the kernel does with dumps, and the line of `core_pattern` (core(5)) that has it give them to us.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};
use crate::provider::private_file::CONFIG_OF_ROOT;
use crate::text::Show;

/// What the kernel runs or writes at a dump.
pub const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";
/// How many dumps it has taken at once by such a program, for which it then waits.
pub const CORE_PIPE_LIMIT: &str = "/proc/sys/kernel/core_pipe_limit";
/// What that is set to.
pub const PIPE_LIMIT: &str = "16";
/// The file that sets both when a host starts.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/60-vmcryptfs-dumps.conf";
/// Longest line that the kernel takes, in bytes.
const MAX_PATTERN: usize = 127;
/// What the handler is told: pid, uid, gid, signal, time, limit, host name, path of the program. The process chooses some of that, so none
/// of it is taken for an option.
const SPECIFIERS: &str = "-- %P %u %g %s %t %c %h %E";
const VERB: [&str; 2] = ["dump", "take"];

/// The line for a host: dumps come to `program`, and those of programs without data of guests go on to `others`, if that is a line with a
/// program.
///
/// # Errors
/// `Invalid` when the kernel would not understand it.
pub fn pattern(program: &Path, config: &Path, others: Option<&str>) -> Result<String> {
    let word = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains([' ', '\t', '\n', '%']));
        let found = || format!("{}: the kernel takes no path with blanks or % for its core_pattern", path.shown());
        text.map(str::to_owned).ok_or_else(|| Error::new(Kind::Invalid, found()))
    };
    let mut words = vec![format!("|{}", word(program)?)];
    if config != Path::new(CONFIG_OF_ROOT) {
        words.push(format!("--config {}", word(config)?));
    }
    words.extend(VERB.map(str::to_owned));
    words.push(SPECIFIERS.to_owned());
    words.extend(others.and_then(|others| others.strip_prefix('|')).map(|others| others.trim().to_owned()));
    let line = words.join(" ");
    match line.len() <= MAX_PATTERN {
        true => Ok(line),
        false => {
            let found =
                format!("the core_pattern {line:?} has {} bytes, and the kernel takes {MAX_PATTERN}", line.len());
            Err(Error::new(Kind::Invalid, found))
        }
    }
}

/// Refuses a program that another user than root could replace: the kernel runs it as root.
///
/// # Errors
/// `Denied`, and `Io` when it cannot be looked at.
pub fn refuse_replaceable(program: &Path) -> Result<()> {
    let looking = || format!("looking at who can replace {}", program.shown());
    let program = program.canonicalize().context(looking)?;
    for part in program.ancestors() {
        let found = part.symlink_metadata().context(looking)?;
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if owner != 0 || mode & 0o022 != 0 {
            let message = format!(
                "the kernel would run {} as root, but {} has owner {owner} and mode {mode:o}: expected owner 0, and that no other user can write it",
                program.shown(),
                part.shown()
            );
            return Err(Error::new(Kind::Denied, message));
        }
    }
    Ok(())
}

/// The content of [`SYSCTL_FILE`] for a line, and the one that it replaces.
pub fn sysctl_file(line: &str, former: &str) -> String {
    format!(
        "# Dumps of processes are encrypted: `vmcryptfs dump setup` made this file. Before, core_pattern was:\n\
         # {former}\nkernel.core_pattern = {line}\nkernel.core_pipe_limit = {PIPE_LIMIT}\n"
    )
}

/// The line that such a file says was there before.
pub fn former_of(content: &str) -> Option<&str> {
    content.lines().nth(1)?.strip_prefix("# ")
}

/// Our handler, as a line of `core_pattern` has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handler {
    /// The program.
    pub program: PathBuf,
    /// The configuration file that it reads.
    pub config: PathBuf,
    /// Where dumps of programs without data of guests go, if not to it as well.
    pub others: Option<String>,
}

impl Handler {
    /// The handler of a line; `None` if it is not ours.
    pub fn of(line: &str) -> Option<Self> {
        let mut words = line.trim().strip_prefix('|')?.split_whitespace().peekable();
        let program = PathBuf::from(words.next()?);
        let mut config = PathBuf::from(CONFIG_OF_ROOT);
        if words.next_if_eq(&"--config").is_some() {
            config = words.next()?.into();
        }
        let is_ours = program.file_name() == Some(OsStr::new("vmcryptfs"))
            && VERB.iter().all(|word| words.next_if_eq(word).is_some())
            && SPECIFIERS.split(' ').all(|word| words.next_if_eq(&word).is_some());
        let others: Vec<&str> = words.collect();
        is_ours.then(|| Self { program, config, others: (!others.is_empty()).then(|| others.join(" ")) })
    }
}

/// How far a host is, in vSphere's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Dumps may reach its disks in the clear.
    Incapable,
    /// No dump reaches its disks in the clear, but it has no host key that will open them.
    Prepared,
    /// Dumps are encrypted.
    Safe,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incapable => "incapable",
            Self::Prepared => "prepared",
            Self::Safe => "safe",
        })
    }
}

/// The state of a host with this configuration, given the kernel's line and whether there is a dump key, and why it is not better.
pub fn state(line: &str, config: &Path, has_key: bool) -> (HostState, Option<String>) {
    let setup = "`vmcryptfs dump setup`";
    match Handler::of(line) {
        None => {
            let line = line.trim();
            let why = format!("core_pattern is {line:?}: dumps do not come to vmcryptfs; {setup} says how they do");
            (HostState::Incapable, Some(why))
        }
        Some(handler) if handler.config != config => {
            let why = format!("dumps come to the vmcryptfs of {}, another configuration", handler.config.shown());
            (HostState::Incapable, Some(why))
        }
        Some(handler) if !handler.program.exists() => {
            let why = format!("dumps are lost: there is no program {}", handler.program.shown());
            (HostState::Prepared, Some(why))
        }
        Some(_) if !has_key => {
            (HostState::Prepared, Some(format!("dumps are lost: this host has no host key; {setup} makes one")))
        }
        Some(_) => (HostState::Safe, None),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const APPORT: &str = "|/usr/share/apport/apport -p%p -s%s -c%c -d%d -P%P -u%u -g%g";

    #[test]
    fn a_line_is_understood_as_it_was_made() {
        let usual = Path::new(CONFIG_OF_ROOT);
        for (config, others) in
            [(usual, None), (Path::new("/a/b.toml"), None), (usual, Some(APPORT)), (usual, Some("core"))]
        {
            let line = pattern(Path::new("/usr/bin/vmcryptfs"), config, others).unwrap();
            assert!(line.len() <= MAX_PATTERN);
            let handler = Handler::of(&format!("{line}\n")).unwrap();
            assert_eq!(
                (handler.program.as_path(), handler.config.as_path()),
                (Path::new("/usr/bin/vmcryptfs"), config)
            );
            // Nothing of ours writes a file for others: such a dump is taken as well.
            assert_eq!(handler.others.as_deref(), others.and_then(|others| others.strip_prefix('|')), "{line}");
        }
        for line in [
            "core",
            "|/usr/lib/systemd/systemd-coredump %P",
            "|/usr/bin/vmcryptfs dump list",
            "|",
            "",
            "|/usr/bin/vmcryptfs dump take %P",
            "|/usr/bin/vmcryptfs --config",
        ] {
            assert_eq!(Handler::of(line), None, "{line}");
        }
    }

    #[test]
    fn what_the_kernel_would_not_understand_is_refused() {
        let usual = Path::new(CONFIG_OF_ROOT);
        for (program, config) in [
            ("/opt/my programs/vmcryptfs", usual),
            ("/opt/50%/vmcryptfs", usual),
            ("/usr/bin/vmcryptfs", Path::new("/a b")),
        ] {
            assert_eq!(pattern(Path::new(program), config, None).unwrap_err().kind(), Kind::Invalid, "{program}");
        }
        let long = format!("|/usr/bin/handler {}", "x".repeat(100));
        let error = pattern(Path::new("/usr/bin/vmcryptfs"), usual, Some(&long)).unwrap_err();
        assert!(error.to_string().contains("the kernel takes 127"), "{error}");
    }

    #[test]
    fn a_program_that_others_could_replace_is_refused() {
        refuse_replaceable(Path::new("/usr")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("vmcryptfs");
        std::fs::write(&program, "").unwrap();
        for mode in [0o775, 0o757] {
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = refuse_replaceable(&program).unwrap_err();
            assert!(error.kind() == Kind::Denied && error.to_string().contains(&format!("{mode:o}")), "{error}");
        }
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(refuse_replaceable(&program).unwrap_err().kind(), Kind::Denied);
        assert_eq!(refuse_replaceable(&dir.path().join("none")).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn states_are_those_of_vsphere() {
        let (dir, config) = (tempfile::tempdir().unwrap(), Path::new("/c.toml"));
        let program = dir.path().join("vmcryptfs");
        std::fs::write(&program, "").unwrap();
        let line = format!("|{} --config /c.toml dump take {SPECIFIERS}", program.shown());
        assert_eq!(state(&line, config, true), (HostState::Safe, None));
        assert_eq!(state(&line, config, false).0, HostState::Prepared);
        let gone = format!("|/nowhere/vmcryptfs --config /c.toml dump take {SPECIFIERS}");
        assert_eq!(state(&gone, config, true).0, HostState::Prepared);
        assert_eq!(state(&line, Path::new("/d.toml"), true).0, HostState::Incapable);
        assert_eq!(state("core", config, true).0, HostState::Incapable);
    }
}
