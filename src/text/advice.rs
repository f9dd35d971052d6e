//! Advice that can be run as it is printed: the paths in it are put in where they are known.
//!
//! What gives advice often knows less than what prints it: a header has no path, and a disk not the mount that shows it. It
//! names them in capitals, as in `vmcryptfs adopt DISK`.

use std::path::{Path, PathBuf};

use super::quoted;

/// Names that advice has for paths, and the paths, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// `VM_FOLDER`.
    pub vm_folder: Option<&'a Path>,
    /// `COMPONENT` or `DISK`: what is spoken of.
    pub component: Option<&'a Path>,
    /// `MOUNTPOINT`.
    pub mountpoint: Option<&'a Path>,
}

/// A path below a VM folder whose own path is put in later.
pub fn below_vm_folder(path: &Path) -> PathBuf {
    Path::new(VM_FOLDER).join(path)
}

const VM_FOLDER: &str = "VM_FOLDER";

impl Places<'_> {
    /// The text with the paths in its commands, which stand between backticks, as a shell takes them.
    pub fn put_into(&self, text: &str) -> String {
        let spans = text.split('`').enumerate().map(|(number, span)| match number % 2 == 1 && is_command(span) {
            true => {
                let words = span.split(' ').map(|word| self.word(word)).collect::<Vec<_>>().join(" ");
                self.vm_folder.map_or(words.clone(), |folder| with_folder(&words, folder))
            }
            false => span.to_owned(),
        });
        spans.collect::<Vec<_>>().join("`")
    }

    fn word(&self, word: &str) -> String {
        let path = match word {
            VM_FOLDER => self.vm_folder,
            "COMPONENT" | "DISK" => self.component,
            "MOUNTPOINT" => self.mountpoint,
            _ => None,
        };
        path.map_or_else(|| word.to_owned(), quoted)
    }
}

/// With the folder in front of paths of [`below_vm_folder`], which are quoted or not.
fn with_folder(command: &str, folder: &Path) -> String {
    let mut parts = command.split("VM_FOLDER/");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        // Both may be quoted, each by its own need: a shell joins words that touch.
        let quote = ["$'", "'"].into_iter().find(|quote| result.ends_with(quote)).unwrap_or_default();
        result.truncate(result.len() - quote.len());
        result += &format!("{}/{quote}{rest}", quoted(folder));
    }
    result
}

fn is_command(span: &str) -> bool {
    span.starts_with("vmcryptfs ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_into_commands_as_a_shell_takes_them() {
        let places = Places {
            vm_folder: Some(Path::new("/vms/a b")),
            component: Some(Path::new("/vms/a b/-d")),
            mountpoint: None,
        };
        for (text, expected) in [
            (
                "no `DISK`: `vmcryptfs adopt DISK` takes DISK in",
                "no `DISK`: `vmcryptfs adopt '/vms/a b/-d'` takes DISK in",
            ),
            ("`vmcryptfs encrypt VM_FOLDER --all` or `key`", "`vmcryptfs encrypt '/vms/a b' --all` or `key`"),
            ("`vmcryptfs adopt VM_FOLDER/d.raw --x`", "`vmcryptfs adopt '/vms/a b'/d.raw --x`"),
            ("`vmcryptfs adopt 'VM_FOLDER/d 1.raw'`", "`vmcryptfs adopt '/vms/a b'/'d 1.raw'`"),
            ("`vmcryptfs adopt $'VM_FOLDER/d\\377'`", "`vmcryptfs adopt '/vms/a b'/$'d\\377'`"),
            ("run `vmcryptfs unlock MOUNTPOINT`", "run `vmcryptfs unlock MOUNTPOINT`"),
            ("`vmcryptfs check VM_FOLDERS", "`vmcryptfs check VM_FOLDERS"),
        ] {
            assert_eq!(places.put_into(text), expected);
        }
    }
}
