//! QEMU's `json:` names: an image given by the options that open it.

use std::path::PathBuf;

use serde_json::Value;

use super::path_of;

/// Names within names are resolved this deep.
const MAX_DEPTH: usize = 8;

/// The files that options name; none where they are no JSON.
pub(super) fn file_names(options: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect_from_text(options, 0, &mut found);
    found
}

fn collect_from_text(options: &[u8], depth: usize, found: &mut Vec<PathBuf>) {
    if depth < MAX_DEPTH
        && let Ok(options) = serde_json::from_slice::<Value>(options)
    {
        collect(&options, depth, found);
    }
}

/// The parser bounds how deep values are nested.
fn collect(options: &Value, depth: usize, found: &mut Vec<PathBuf>) {
    match options {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(name) if key == "filename" || key.ends_with(".filename") => match name.strip_prefix("json:") {
                        Some(options) => collect_from_text(options.as_bytes(), depth + 1, found),
                        None => found.extend(path_of(name.as_bytes())),
                    },
                    _ => collect(value, depth, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, depth, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
