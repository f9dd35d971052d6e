//! What a key server sends.

use data_encoding::HEXLOWER;
use vmcryptfs::provider::kinds::kmip::ttlv;

use crate::mutation::fuzz;
use crate::{SECONDS, bound_memory};

/// Answers of a real server.
const RECORDED: &str = include_str!("../../src/provider/kinds/kmip/ttlv/recorded.txt");

#[test]
fn ttlv_messages() {
    const WORDS: [&[u8]; 8] = [
        b"\x42\0\x7b\x01",
        b"\x42\0\x0f\x01\0\0\0\x08",
        b"\x02\0\0\0\x04",
        b"\x08\xff\xff\xff\xff",
        b"\x07\0\0\0\0",
        b"\0\0\0\0",
        b"\x01\0\0\0\0",
        b"\xff",
    ];
    bound_memory();
    let lines = RECORDED.lines().filter(|line| !line.starts_with('#'));
    let corpus: Vec<Vec<u8>> = lines
        .filter_map(|line| line.split_once(' '))
        .map(|(_, hex)| HEXLOWER.decode(hex.as_bytes()).unwrap())
        .collect();
    assert!(corpus.len() > 5);
    fuzz(
        "ttlv",
        SECONDS,
        &corpus,
        &WORDS,
        |_, _| {},
        |input| {
            if let Some(header) = input.first_chunk() {
                let _ = ttlv::message_len(*header);
            }
            if let Ok(item) = ttlv::decode(input) {
                assert!(*item.encode() == *input, "decode, then encode, is not identical");
            }
        },
    );
}
