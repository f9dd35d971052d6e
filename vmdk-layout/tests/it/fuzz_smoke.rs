//! Fuzzing of all readers: descriptors, sparse extents and their tables, `.vmx` files. See [`mutation`](crate::mutation).

use std::path::Path;

use crate::images::{Cell, FORMATS, Image};
use crate::mutation::{corpus_of, fuzz};
use crate::properties::{image_properties, text_properties};

const TEXTS: [&str; 3] = [
    "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n\
     parentFileNameHint=\"a.vmdk\"\nRW 100 FLAT \"a-f001.vmdk\" 0\nRDONLY 5 ZERO\nNOACCESS 7 SPARSE \"b c.vmdk\"\n\
     #DDB\nddb.adapterType = \"lsilogic\"\n",
    "version=1\nCID=fffffffe\nparentCID=1\ncreateType=\"seSparse\"\nencryptionKeys=\"vmware:key/list/(pair/(fqid/\
     <VMWARE-NULL>/KMS/k%2d1,HMAC-SHA-256,AA=),pair/(phrase/x/a%3db%3ac%3dd,HMAC-SHA-1,BB))\"\nkeyID=\"k\"\nRW 1 SESPARSE \"x\"\n",
    ".encoding = \"Shift_JIS\"\r\nscsi0:0.fileName = \"a|22b.vmdk\"\r\nscsi0:0.present = \"TRUE\"\r\nencryption.bundle = \"vmware:key/null/x\"\r\n",
];

/// Words that parsers branch on.
const WORDS: [&[u8]; 18] = [
    b"RW ",
    b"\"",
    b"=",
    b"\n",
    b"\r\n",
    b"ZERO",
    b"FLAT",
    b"ffffffff",
    b"../",
    b"\0",
    b"(",
    b")",
    b"\xff\xff\xff\xff",
    b"\x81",
    b" # ",
    b"cp437",
    b"windows-949-2000",
    b"\x83\x5c",
];

fn corpus() -> Vec<Vec<u8>> {
    let cells = [Cell::Data(1), Cell::Absent, Cell::Zero, Cell::Data(2), Cell::Absent, Cell::Data(3)];
    let images = FORMATS.iter().map(|format| {
        let image = Image { table_entries: 4, ..Image::new(*format, cells.to_vec(), 3) };
        Image { descriptor: TEXTS[0].as_bytes().to_vec(), ..image }.bytes()
    });
    let files = corpus_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus"));
    images.chain(TEXTS.iter().map(|text| text.as_bytes().to_vec())).chain(files).collect()
}

#[test]
fn mutated_inputs_never_panic_and_printing_is_stable() {
    fuzz(
        "vmdk",
        3,
        &corpus(),
        &WORDS,
        |_, _| {},
        |input| {
            text_properties(input);
            image_properties(input);
        },
    );
}
