//! Passphrases of key backups: typed, or the first line of a file.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Context, Error, Kind, Result};

/// Shortest passphrase that a backup is made with, in characters.
const MIN_PASSPHRASE: usize = 8;
/// Longest first line that is read as a passphrase, in bytes.
const MAX_PASSPHRASE: usize = 1024;

/// Where a passphrase comes from.
#[derive(clap::Args, Debug)]
pub struct PassphraseSource {
    /// Read the passphrase from the first line of a file, or of standard input for "-", instead of the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// What a passphrase is read for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::cli) enum Purpose {
    /// To seal something: long enough, and typed twice.
    Choose,
    /// To open something.
    Enter,
}

impl PassphraseSource {
    /// The first line of a file, or the terminal.
    pub(in crate::cli) fn of(passphrase_file: Option<PathBuf>) -> Self {
        Self { passphrase_file }
    }

    pub(in crate::cli) fn read(&self, purpose: Purpose) -> Result<Zeroizing<Vec<u8>>> {
        let passphrase = match self.passphrase_file.as_deref() {
            Some(path) if path == Path::new("-") => io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .context(|| "opening standard input".into())
                .and_then(|input| first_line(File::from(input)))
                .context(|| "reading the passphrase from standard input".into())?,
            // Not named: it may be the passphrase itself, given where its file belongs.
            Some(path) => File::open(path)
                .context(|| "opening it".into())
                .and_then(first_line)
                .context(|| "reading the passphrase from the file of --passphrase-file".into())?,
            None => type_passphrase(purpose)?,
        };
        check_passphrase(&passphrase, purpose)?;
        Ok(passphrase)
    }
}

fn type_passphrase(purpose: Purpose) -> Result<Zeroizing<Vec<u8>>> {
    let prompt = |prompt: &str| -> Result<Zeroizing<Vec<u8>>> {
        let typed = rpassword::prompt_password(prompt)
            .context(|| "reading the passphrase from the terminal; --passphrase-file FILE needs none".into())?;
        Ok(Zeroizing::new(typed.into_bytes()))
    };
    let passphrase = prompt("Passphrase: ")?;
    check_passphrase(&passphrase, purpose)?;
    if purpose == Purpose::Choose && *prompt("The same again: ")? != *passphrase {
        return Err(Error::new(Kind::Invalid, "the two passphrases differ; nothing was written"));
    }
    Ok(passphrase)
}

fn check_passphrase(passphrase: &[u8], purpose: Purpose) -> Result<()> {
    let text =
        std::str::from_utf8(passphrase).map_err(|_| Error::new(Kind::Invalid, "the passphrase is not UTF-8 text"))?;
    let characters = text.chars().count();
    if purpose == Purpose::Choose && characters < MIN_PASSPHRASE {
        return Err(Error::new(
            Kind::Invalid,
            format!("a passphrase of {characters} characters, expected at least {MIN_PASSPHRASE}"),
        ));
    }
    Ok(())
}

/// The first line without its end. Read byte by byte, so that no buffer keeps a copy.
fn first_line(mut input: impl Read) -> Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE + 1)); // never grows: growing leaves a copy
    let mut byte = Zeroizing::new([0]);
    loop {
        match input.read_exact(&mut *byte) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(Error::io("reading it", error)),
            Ok(()) if byte[0] != b'\n' => {}
            _ => break,
        }
        if line.len() == MAX_PASSPHRASE {
            return Err(Error::new(Kind::Invalid, format!("its first line is longer than {MAX_PASSPHRASE} bytes")));
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_without_its_end() {
        for text in ["correct horse\nbattery\n", "correct horse\r\n", "correct horse"] {
            assert_eq!(first_line(text.as_bytes()).unwrap().as_slice(), b"correct horse", "{text:?}");
        }
        assert_eq!(first_line("a\rb \n".as_bytes()).unwrap().as_slice(), b"a\rb ");
        assert!(first_line("x".repeat(MAX_PASSPHRASE).as_bytes()).is_ok());
        assert!(first_line("x".repeat(MAX_PASSPHRASE + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_chosen_passphrase_has_eight_characters_not_bytes() {
        assert!(check_passphrase("üüüüüüüü".as_bytes(), Purpose::Choose).is_ok());
        assert!(check_passphrase("üüüüüüü".as_bytes(), Purpose::Choose).is_err());
        assert!(check_passphrase(b"short", Purpose::Enter).is_ok());
        assert!(check_passphrase(&[0xff; 12], Purpose::Choose).is_err());
    }
}
