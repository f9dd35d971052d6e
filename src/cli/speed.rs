//! `speed`: what the cipher engines of this machine do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cli::{out, table};
use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::Result;
use crate::sector::{SectorIndex, SectorSize};
use crate::sys::AlignedBuffer;

/// Time spent on one figure.
const PERIOD: Duration = Duration::from_millis(300);

/// Which figures.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs speed\n\n\
    Figures are for one thread, AES-256-XTS. A mount uses the fastest engine of this CPU unless told otherwise.")]
pub(super) struct SpeedArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figure {
    engine: &'static str,
    sector_size: u64,
    request_bytes: usize,
    encrypt_gb_per_s: f64,
    decrypt_gb_per_s: f64,
}

pub(super) fn run(args: &SpeedArgs) -> Result<()> {
    let mut figures = Vec::new();
    for engine in Engine::available() {
        engine.self_test()?;
        for size in [SectorSize::DEFAULT, SectorSize::SMALL] {
            for request in [4 << 10, 1 << 20] {
                figures.push(measure(engine, size, request)?);
            }
        }
    }
    if args.json {
        return out::json(&figures);
    }
    let rows: Vec<[String; 5]> = figures
        .iter()
        .map(|figure| {
            [
                figure.engine.to_owned(),
                figure.sector_size.to_string(),
                crate::cli::size::show(figure.request_bytes as u64),
                format!("{:.2}", figure.encrypt_gb_per_s),
                format!("{:.2}", figure.decrypt_gb_per_s),
            ]
        })
        .collect();
    table::print(["ENGINE", "SECTOR", "REQUEST", "ENCRYPT GB/s", "DECRYPT GB/s"], &rows);
    Ok(())
}

fn measure(engine: Engine, size: SectorSize, request: usize) -> Result<Figure> {
    let cipher = engine.cipher(&random::disk_dek()?)?;
    let mut data = AlignedBuffer::zeroed(request);
    let encrypt = rate(request, |first| cipher.encrypt_in_place(first, size, &mut data))?;
    let decrypt = rate(request, |first| cipher.decrypt_in_place(first, size, &mut data))?;
    black_box(&data[0]);
    Ok(Figure {
        engine: engine.name(),
        sector_size: size.bytes(),
        request_bytes: request,
        encrypt_gb_per_s: encrypt,
        decrypt_gb_per_s: decrypt,
    })
}

/// 10^9 bytes a second of `work`, which handles `request` bytes at a time.
fn rate(request: usize, mut work: impl FnMut(SectorIndex) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut bytes = 0_u64;
    while start.elapsed() < PERIOD {
        for _ in 0..16 {
            work(SectorIndex(bytes))?;
            bytes += request as u64;
        }
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64() / 1e9)
}
