//! Paths in command lines that are shown, to be copied into a shell.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::text::is_dangerous;

/// A path as a shell takes it, as one word and never as an option: plain, in '...', or, where that could not be read or would
/// not arrive byte for byte, in $'...', which bash, zsh and ksh know.
pub fn quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let not_option = if bytes.starts_with(b"-") { "./" } else { "" };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(is_plain) => format!("{not_option}{text}"),
        Ok(text) if !text.contains(is_dangerous) => format!("'{not_option}{}'", text.replace('\'', r"'\''")),
        _ => format!("$'{not_option}{}'", escaped(bytes)),
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_./+,:@%".contains(c)
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | '\'' => text.extend(['\\', c]),
                _ if is_dangerous(c) => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_byte(&mut text, byte)),
                _ => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_byte(&mut text, *byte));
    }
    text
}

/// Three octal digits: what follows is never read as part of it.
fn push_byte(text: &mut String, byte: u8) {
    text.push('\\');
    text.extend([6, 3, 0].map(|shift| char::from(b'0' + (byte >> shift & 7))));
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_takes_each_path_as_one_word() {
        for (name, expected) in [
            (&b"web01/root.raw"[..], "web01/root.raw"),
            (b"web 01", "'web 01'"),
            (b"it's a.raw", r"'it'\''s a.raw'"),
            (b"a;$(b)`c`", "'a;$(b)`c`'"),
            (b"-rf", "./-rf"),
            (b"-r f", "'./-r f'"),
            (b"a\nb'\\", r"$'a\012b\'\\'"),
            (b"caf\xe9e.raw", r"$'caf\351e.raw'"),
            ("\u{e9}t\u{e9} \u{202e}".as_bytes(), "$'\u{e9}t\u{e9} \\342\\200\\256'"),
            (b"", "''"),
            (b"~root*", "'~root*'"),
        ] {
            let word = quoted(Path::new(OsStr::from_bytes(name)));
            assert_eq!(word, expected);
            let arrived = Command::new("bash").args(["-c", &format!("printf %s {word}")]).output().unwrap().stdout;
            assert_eq!(arrived.strip_prefix(b"./").unwrap_or(&arrived), name, "{word}");
        }
    }
}
