//! A mutation fuzzer on the stable toolchain: seconds by default, hours with `VMDK_FUZZ_SECONDS`.
//!
//! It is deterministic for a seed, which `VMDK_FUZZ_SEED` sets. A failure leaves the input it failed on in
//! `VMDK_FUZZ_FAILED`, or the temporary folder.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::images::{Cell, FORMATS, Image};
use crate::properties::{image_properties, text_properties};

/// SplitMix64: good enough to choose mutations, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

const TEXTS: [&str; 3] = [
    "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n\
     parentFileNameHint=\"a.vmdk\"\nRW 100 FLAT \"a-f001.vmdk\" 0\nRDONLY 5 ZERO\nNOACCESS 7 SPARSE \"b c.vmdk\"\n\
     #DDB\nddb.adapterType = \"lsilogic\"\n",
    "version=1\nCID=fffffffe\nparentCID=1\ncreateType=\"seSparse\"\nencryptionKeys=\"vmware:key/list/(pair/(fqid/\
     <VMWARE-NULL>/KMS/k%2d1,HMAC-SHA-256,AA=),pair/(phrase/x/a%3db%3ac%3dd,HMAC-SHA-1,BB))\"\nkeyID=\"k\"\nRW 1 SESPARSE \"x\"\n",
    ".encoding = \"Shift_JIS\"\r\nscsi0:0.fileName = \"a|22b.vmdk\"\r\nscsi0:0.present = \"TRUE\"\r\nencryption.bundle = \"vmware:key/null/x\"\r\n",
];

/// Words that parsers branch on.
const WORDS: [&[u8]; 14] = [
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
];

fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(input.len());
        match random.below(7) {
            0 => input.truncate(at),
            1 => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            2 => {
                let end = (at + random.below(40)).min(input.len());
                let copied = input[at..end].to_vec();
                let to = random.below(input.len());
                input.splice(to..to, copied);
            }
            3 => {
                let end = (at + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            4 if !input.is_empty() => {
                // Header fields decide most, and numbers near their limits most of all.
                let at = random.below(input.len().min(256));
                let field = [0_u64, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63][random.below(6)].to_le_bytes();
                let len = (input.len() - at).min([1, 2, 4, 8][random.below(4)]);
                input[at..at + len].copy_from_slice(&field[..len]);
            }
            _ if !input.is_empty() => input[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let cells = [Cell::Data(1), Cell::Absent, Cell::Zero, Cell::Data(2), Cell::Absent, Cell::Data(3)];
    let images = FORMATS.iter().map(|format| {
        let image = Image { table_entries: 4, ..Image::new(*format, cells.to_vec(), 3) };
        Image { descriptor: TEXTS[0].as_bytes().to_vec(), ..image }.bytes()
    });
    images.chain(TEXTS.iter().map(|text| text.as_bytes().to_vec())).collect()
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn mutated_inputs_never_panic_and_printing_is_stable() {
    let time = Duration::from_secs(number("VMDK_FUZZ_SECONDS", 3));
    let seed = number("VMDK_FUZZ_SEED", 1);
    let mut random = Random(seed);
    let corpus = corpus();
    corpus.iter().for_each(|input| image_properties(input));
    let start = Instant::now();
    let mut runs = 0_u64;
    while start.elapsed() < time {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, &mut random);
        runs += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            text_properties(&input);
            image_properties(&input);
        }));
        if outcome.is_err() {
            let path = env::var("VMDK_FUZZ_FAILED")
                .map_or_else(|_| env::temp_dir().join("vmdk-layout-fuzz-failed.bin"), Into::into);
            fs::write(&path, &input).unwrap();
            panic!("run {runs} of seed {seed} failed; its input is in {}", path.display());
        }
    }
    assert!(runs > 100, "only {runs} runs in {time:?}");
}
