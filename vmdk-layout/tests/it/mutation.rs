//! A mutation fuzzer on the stable toolchain: seconds by default, hours with `FUZZ_SECONDS`.
//!
//! It is deterministic for a seed, which `FUZZ_SEED` sets. An input that fails, or takes too long, is left in `FUZZ_FAILED`, or
//! in the temporary folder; it belongs into the corpus then.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What one input may take, on a machine that does other things as well.
const MOST: Duration = Duration::from_secs(20);

/// SplitMix64: good enough to choose mutations, and the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Changes an input in a few places, as disks, networks and people do. `words` are what its parser branches on.
fn mutate(input: &mut Vec<u8>, words: &[&[u8]], random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(input.len());
        match random.below(7) {
            0 => input.truncate(at),
            1 => {
                let word = words[random.below(words.len())];
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

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// All files of a folder, in the order of their names.
pub(crate) fn corpus_of(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Gives `check` the corpus, and then changed inputs for as long as `FUZZ_SECONDS` says, else `seconds`. `finish` may make a
/// changed input look whole, so that more than its checksum is tried.
pub(crate) fn fuzz(
    name: &str,
    seconds: u64,
    corpus: &[Vec<u8>],
    words: &[&[u8]],
    finish: impl Fn(&mut Vec<u8>, &mut Random),
    check: impl Fn(&[u8]),
) {
    let time = Duration::from_secs(number("FUZZ_SECONDS", seconds));
    let seed = number("FUZZ_SEED", 1);
    let mut random = Random(seed);
    corpus.iter().for_each(|input| check(input));
    let running = Arc::new(Mutex::new((Instant::now(), Vec::new())));
    watch(name, &running);
    let start = Instant::now();
    let mut runs = 0_u64;
    while start.elapsed() < time {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, words, &mut random);
        finish(&mut input, &mut random);
        runs += 1;
        *running.lock().unwrap() = (Instant::now(), input.clone());
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            panic!("run {runs} of {name}, seed {seed}, failed; its input is in {}", save(name, &input).display());
        }
    }
    assert!(runs > 20, "only {runs} runs of {name} in {time:?}");
}

/// Ends the process when an input takes too long: what hangs cannot be asked to stop.
#[allow(clippy::print_stderr, reason = "the process ends without anyone to tell")]
fn watch(name: &str, running: &Arc<Mutex<(Instant, Vec<u8>)>>) {
    let (name, running) = (name.to_owned(), Arc::downgrade(running));
    thread::spawn(move || {
        while let Some(running) = running.upgrade() {
            let (since, input) = running.lock().unwrap().clone();
            if since.elapsed() > MOST {
                eprintln!("{name}: an input takes over {MOST:?}; it is in {}", save(&name, &input).display());
                std::process::abort();
            }
            drop(running);
            thread::sleep(Duration::from_millis(500));
        }
    });
}

fn save(name: &str, input: &[u8]) -> PathBuf {
    let otherwise = || env::temp_dir().join(format!("fuzz-failed-{name}.bin"));
    let path = env::var_os("FUZZ_FAILED").map_or_else(otherwise, PathBuf::from);
    fs::write(&path, input).unwrap();
    path
}
