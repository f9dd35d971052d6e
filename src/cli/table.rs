//! Columns of text, aligned.

use std::borrow::Cow;

use crate::text;

/// Prints rows under a heading; the last column is not padded.
pub(super) fn print<const N: usize>(heading: [&str; N], rows: &[[String; N]]) {
    // A name with a newline would begin a row of its own.
    let rows: Vec<[Cow<'_, str>; N]> =
        rows.iter().map(|row| std::array::from_fn(|column| text::one_line(&row[column]))).collect();
    let width = |column: usize| -> usize {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: [&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(heading);
    for row in &rows {
        line(std::array::from_fn(|column| row[column].as_ref()));
    }
}
