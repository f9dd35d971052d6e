//! `events`: what was done with which key, for which component, by which user, and how it ended.

mod verify;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::place;
use crate::error::{Context, Result};
use crate::event::reader::{Line, Reader};
use crate::event::{self, Record};
use crate::text;
use crate::text::Show;
use crate::timestamp::Timestamp;

/// How often the log is looked at for new events.
const FOLLOW_PERIOD: Duration = Duration::from_millis(250);

/// Which events.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs events --since 2h\n  vmcryptfs events --failed /vms/web01\n  \
    vmcryptfs events --last --json\n  vmcryptfs events --follow\n\n\
    Shows the log of the current user: root's mounts write root's log.")]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct EventsArgs {
    #[command(subcommand)]
    command: Option<EventsCommand>,
    /// Only of this VM folder or disk, and what is below it
    #[arg(value_name = "COMPONENT", value_parser = place::parser())]
    component: Option<PathBuf>,
    /// Wait for more, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Print the lines of the log as they are, in JSON
    #[arg(long)]
    json: bool,
    /// Only what happened since then: 30m, 2h, 7days, 2026-11-25 or 2026-11-25T19:30:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// Only what failed
    #[arg(long)]
    failed: bool,
    /// Only the last event of each component
    #[arg(long, conflicts_with = "follow")]
    last: bool,
}

#[derive(Subcommand)]
enum EventsCommand {
    /// Verify that no event is missing, changed or put in
    Verify(verify::VerifyArgs),
}

fn parse_since(text: &str) -> std::result::Result<Timestamp, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Timestamp::now().before(ago));
    }
    let whole_day = text.len() == "2026-11-25".len();
    let time = if whole_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
    Timestamp::parse(&time)
        .ok_or_else(|| "expected a span of time, such as 30m or 2h, or a time in UTC, such as 2026-11-25".to_owned())
}

pub(super) fn run(args: &EventsArgs, config: &dyn Fn() -> Result<PathBuf>) -> Result<()> {
    if let Some(EventsCommand::Verify(args)) = &args.command {
        return verify::run(args, config);
    }
    let path = event::place(&event::settings()?)?;
    let mut reader = Reader::open(&path)?;
    let printed = if args.last { print_last(args, &mut reader) } else { print_all(args, &mut reader) };
    if reader.skipped() > 0 {
        let lines = text::count(reader.skipped(), "line that is not an event", "lines that are not events");
        eprintln!("{}: skipped {lines}", path.shown());
    }
    printed
}

fn print_all(args: &EventsArgs, reader: &mut Reader) -> Result<()> {
    let component = args.component.as_deref().map(absolute).transpose()?;
    let mut out = io::stdout().lock();
    let mut found = false;
    loop {
        while let Some(line) = reader.next_line()? {
            if !args.wants(&line.record, component.as_deref()) {
                continue;
            }
            found = true;
            if !print(&mut out, &line, args.json)? {
                return Ok(());
            }
        }
        if !args.follow {
            tell_none(args, found);
            return Ok(());
        }
        thread::sleep(FOLLOW_PERIOD);
    }
}

fn print_last(args: &EventsArgs, reader: &mut Reader) -> Result<()> {
    let component = args.component.as_deref().map(absolute).transpose()?;
    let mut last = BTreeMap::new();
    while let Some(line) = reader.next_line()? {
        if args.wants(&line.record, component.as_deref())
            && let Some(about) = line.record.component.clone()
        {
            last.insert(about, line);
        }
    }
    tell_none(args, !last.is_empty());
    let mut out = io::stdout().lock();
    for line in last.values() {
        if !print(&mut out, line, args.json)? {
            break;
        }
    }
    Ok(())
}

/// A path that is mistyped looks like a component with which nothing was done.
fn tell_none(args: &EventsArgs, found: bool) {
    if let (Some(component), false) = (&args.component, found) {
        eprintln!("{}: no event in the log matches", component.shown());
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("finding {}", path.shown()))
}

impl EventsArgs {
    fn wants(&self, record: &Record, component: Option<&Path>) -> bool {
        let about = record.component.as_deref().map(text::path::from_text);
        // A time that is not understood is shown rather than hidden.
        let time = Timestamp::parse(&record.time);
        component.is_none_or(|wanted| about.is_some_and(|about| about.starts_with(wanted)))
            && !(self.failed && record.succeeded())
            && self.since.is_none_or(|since| time.is_none_or(|time| time >= since))
    }
}

/// Prints an event; `false` when the reader has closed the pipe.
fn print(out: &mut impl Write, line: &Line, json: bool) -> Result<bool> {
    let text = shown(&line.record);
    let text = if json { text::json(&line.text) } else { text::one_line(&text) };
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.context(|| "printing an event".into()).map(|()| true),
    }
}

fn shown(record: &Record) -> String {
    let user = match &record.login {
        Some(login) => format!("{} ({login})", record.user),
        None => record.user.clone(),
    };
    let mut text = format!("{}  {user:8}  {:15}  {:6}", record.time, record.operation, record.result);
    if let Some(component) = &record.component {
        text += &format!("  {component}");
    }
    match (&record.provider, &record.key_id) {
        (Some(provider), Some(key_id)) => text += &format!("  key {provider}/{key_id}"),
        (Some(provider), None) => text += &format!("  provider {provider}"),
        (None, _) => {}
    }
    if let Some(reason) = &record.reason {
        text += &format!(": {reason}");
    }
    if let Some(id) = &record.vsphere_event {
        text += &format!("  [{id}]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_time() {
        let ago = |since: Timestamp| (Timestamp::now().since_1970() - since.since_1970()).as_secs();
        let seconds_ago = |text| ago(parse_since(text).unwrap());
        assert!((7_200..7_260).contains(&seconds_ago("2h")));
        assert!((172_800..172_860).contains(&seconds_ago("2days")));
        let day = Timestamp::parse("2026-11-25T00:00:00Z").unwrap();
        assert_eq!(parse_since("2026-11-25").unwrap(), day);
        assert_eq!(parse_since("2026-11-25 00:00:07Z").unwrap().before(Duration::from_secs(7)), day);
        for nonsense in ["", "yesterday", "2026-13-25", "-1h"] {
            assert!(parse_since(nonsense).is_err(), "{nonsense}");
        }
    }
}
