//! Policies on recorded boots and on made ones. Attacks are in `attacks`.

use super::*;
use crate::event_log::sample::{
    Boot, DIRECT_KERNEL, OTHER_COMMAND_LINE, OTHER_KERNEL, SECURE_BOOT_OFF, SECURE_BOOT_ON, SampleLog,
};
use crate::pcr::{Digest, PcrIndex};
use crate::replay::Replayed;

pub(super) const QUOTED: &str = "sha256:0,2,4,7,9,11,12";

const CLASS: &str = "format = 1\nname = \"fleet\"\nbank = \"sha256\"\n[[class]]\nname = \"compute\"\n\
                     hosts = [\"kvm-*\"]\nlevel = \"LEVEL\"\nsets = [\"base\"]\n";

/// A policy of one class, whose one set is what a host has measured into these registers.
pub(crate) fn policy_of(level: Level, replayed: &Replayed, registers: &str) -> Policy {
    let set = ApprovedSet::of_host("base", "2026-11-30", replayed, registers.parse().unwrap()).unwrap();
    let set = set.to_text().replace("[[pcr]]", "[[set.pcr]]");
    Policy::parse(&format!("{}[[set]]\n{set}", CLASS.replace("LEVEL", level.name()))).unwrap()
}

fn refused(policy: &Policy, boot: &Boot) -> Refusal {
    *policy.appraise("kvm-3", &boot.replayed(QUOTED)).unwrap_err()
}

pub(super) fn of_secure_boot(level: Level) -> Policy {
    policy_of(level, &SECURE_BOOT_ON.replayed(QUOTED), QUOTED)
}

#[test]
fn a_host_satisfies_what_it_proposed() {
    for level in [Level::SecureBoot, Level::Measured, Level::Pinned] {
        let satisfied = of_secure_boot(level).appraise("kvm-3", &SECURE_BOOT_ON.replayed(QUOTED)).unwrap();
        assert_eq!(
            (satisfied.level(), satisfied.class(), satisfied.sets()),
            (level, "compute", &["base".to_owned()][..])
        );
        assert_eq!(satisfied.values(), &SECURE_BOOT_ON.values(QUOTED));
    }
}

#[test]
fn another_kernel_is_refused_by_its_event() {
    let refusal =
        refused(&policy_of(Level::Measured, &SECURE_BOOT_ON.replayed(QUOTED), "sha256:4,7,11,12"), &OTHER_KERNEL);
    let event = refusal.event.as_ref().unwrap();
    assert_eq!((refusal.rule, refusal.register.unwrap().number(), event.index), (Rule::ApprovedSets, 4, 23));
    let nearest = refusal.nearest.as_ref().unwrap();
    assert_eq!((nearest.set.as_str(), nearest.matched), ("base", 2));
    assert_eq!(
        refusal.to_string(),
        format!(
            "kvm-3 is refused as a host of class \"compute\", level \"measured\". The rule is: what was booted is approved. \
             PCR 4: an event is not the approved one. It is event 23 of the firmware's log: \
             EV_EFI_BOOT_SERVICES_APPLICATION \"\\EFI\\BOOT\\BOOTX64.EFI\" (as the log says), {}. The nearest approved set \
             is \"base\"; it has EV_EFI_BOOT_SERVICES_APPLICATION \"\\EFI\\BOOT\\BOOTX64.EFI\", as the log says, {}, in this \
             place. PCR 11 differs as well, from event 25 of the firmware's log on: EV_IPL \".linux\" (as the log says), {}. \
             To approve what was measured: vmcryptfs-authority policy approve kvm-3 --measured {} --pcr 4,7,11,12",
            event.digest,
            nearest.digest.unwrap(),
            refusal.also[0].event.as_ref().unwrap().digest,
            OTHER_KERNEL.values(QUOTED).name_of("sha256:4,7,11,12".parse().unwrap()),
        )
    );
}

#[test]
fn another_command_line_is_refused_by_its_event() {
    let base = SECURE_BOOT_ON.replayed(QUOTED);
    let refusal = refused(&policy_of(Level::Measured, &base, "sha256:7,11,12,4"), &OTHER_COMMAND_LINE);
    assert_eq!(refusal.register, Some(pcr(4)));
    // The image has changed, and PCR 11 says that it is the content of the command line.
    let also: Vec<_> = refusal.also.iter().map(|also| (also.register, also.event.as_ref().unwrap().index)).collect();
    assert_eq!(also, [(11, 29)]);
    assert!(refusal.to_string().contains(
        "PCR 11 differs as well, from event 29 of the firmware's log on: EV_IPL \".cmdline\" (as the log says), sha256:8b8c"
    ));
    // Only the register of the command line: names of sections are events as well.
    let policy = policy_of(Level::SecureBoot, &base, "sha256:7,11");
    let set = ApprovedSet::of_host("sections", "2026-11-30", &base, "sha256:11".parse().unwrap()).unwrap();
    let other = OTHER_COMMAND_LINE.replayed("sha256:11");
    let differs = set.registers()[0].first_difference(other.events(pcr(11)).unwrap()).unwrap();
    assert_eq!(differs.matched, 5, "names and contents of two sections, and the name of the third");
    assert!(policy.appraise("kvm-3", &OTHER_COMMAND_LINE.replayed(QUOTED)).is_err());
}

#[test]
fn secure_boot_that_is_off_cannot_be_approved() {
    // Even a set that has exactly what such a host measures does not help.
    let policy = policy_of(Level::SecureBoot, &SECURE_BOOT_OFF.replayed(QUOTED), QUOTED);
    let refusal = refused(&policy, &SECURE_BOOT_OFF);
    assert_eq!((refusal.rule, refusal.register.unwrap().number()), (Rule::SecureBoot, 7));
    let event = refusal.event.as_ref().unwrap();
    assert_eq!((event.index, event.description.as_str(), event.proven), (4, "the variable SecureBoot = 0", true));
    assert_eq!(refusal.command, None);
    assert!(refusal.to_string().contains("Secure Boot is off: expected SecureBoot = 1"), "{refusal}");
}

#[test]
fn a_refusal_has_fields_for_programs() {
    let refusal = refused(&of_secure_boot(Level::Measured), &OTHER_KERNEL);
    let json = serde_json::to_value(&refusal).unwrap();
    assert_eq!(json["rule"], "approved-sets");
    assert_eq!((json["register"].as_u64(), json["event"]["index"].as_u64()), (Some(4), Some(23)));
    assert!(json["event"]["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!((&json["event"]["log"], &json["nearest"]["set"]), (&"firmware".into(), &"base".into()));
    assert_eq!(json["also"][0]["register"], 11);
    let measured = OTHER_KERNEL.values(QUOTED).digest(HashAlgorithm::Sha256).to_string();
    let command = format!(
        "vmcryptfs-authority policy approve kvm-3 --measured {} --pcr 0,2,4,7,9,11,12",
        &measured["sha256:".len()..][..40]
    );
    assert_eq!(json["command"], command.as_str());
}

/// A set of the registers that differ alone would leave the level without the others: no set has all of them then.
#[test]
fn what_the_command_of_a_refusal_approves_lets_the_host_in() {
    let policy = of_secure_boot(Level::Measured);
    let replayed = OTHER_KERNEL.replayed(QUOTED);
    let command = policy.appraise("kvm-3", &replayed).unwrap_err().command.unwrap();
    let (_, registers) = command.split_once("--pcr ").unwrap();
    let set = ApprovedSet::of_host("next", "2026-12-01", &replayed, format!("sha256:{registers}").parse().unwrap());
    let approved = policy.with_set(set.unwrap(), "compute").unwrap();
    assert_eq!(approved.appraise("kvm-3", &replayed).unwrap().sets(), ["next"]);
}

/// Its command line and its initrd are in PCR 9; in PCR 11, which only an image measures, any kernel has nothing.
#[test]
fn a_register_that_the_loader_leaves_empty_does_not_make_a_boot_measured() {
    let replayed = DIRECT_KERNEL.replayed(QUOTED);
    assert!(replayed.events(pcr(11)).unwrap().is_empty());
    let text = CLASS.replace("LEVEL", "identity").replace("sets = [\"base\"]", "learn = [4, 7, 9, 11, 12]");
    let policy = Policy::parse(&text).unwrap();
    let measured = |registers: &str| {
        let set = ApprovedSet::of_host("next", "2026-12-01", &replayed, registers.parse().unwrap()).unwrap();
        policy.with_set_and_level(set, "compute", Some(Level::Measured))
    };
    let refused = measured("sha256:4,7,11,12").unwrap_err().to_string();
    assert!(
        refused.contains("none of its sets has digests of PCR 11 or PCR 9, which level \"measured\" demands"),
        "{refused}"
    );
    measured("sha256:4,7,9,11,12").unwrap();
}

#[test]
fn a_class_learns_registers_that_it_does_not_demand() {
    let text = CLASS.replace("LEVEL", "identity").replace("sets = [\"base\"]", "learn = [4, 7, 11, 12]");
    let policy = Policy::parse(&text).unwrap();
    assert_eq!(policy.selection_for("kvm-3").unwrap().to_string(), "sha256:4,7,11,12");
    assert_eq!(Policy::parse(&policy.to_text()).unwrap().classes()[0].learn(), policy.classes()[0].learn());
    let replayed = OTHER_KERNEL.replayed(QUOTED);
    policy.appraise("kvm-3", &replayed).unwrap();
    let set = ApprovedSet::of_host("next", "2026-12-01", &replayed, "sha256:4,7,11,12".parse().unwrap()).unwrap();
    let refused = policy.with_set(set.clone(), "compute").unwrap_err();
    assert!(refused.to_string().contains("choose a higher level"), "{refused}");
    let raised = policy.with_set_and_level(set.clone(), "compute", Some(Level::Measured)).unwrap();
    assert_eq!(raised.appraise("kvm-3", &replayed).unwrap().level(), Level::Measured);
    assert!(raised.appraise("kvm-3", &SECURE_BOOT_ON.replayed(QUOTED)).is_err());
    // The same digests under other words are the same set; in another order they are not.
    let other = set.clone().renamed("other", "2026-12-02", Some("by kvm-4".to_owned())).unwrap();
    assert_eq!(raised.same_set(&raised.classes()[0], &other).map(ApprovedSet::name), Some("next"));
    let mut turned = set;
    turned.registers[0].measured.reverse();
    assert!(raised.same_set(&raised.classes()[0], &turned).is_none());
}

#[test]
fn sets_match_as_a_whole_or_not_at_all() {
    // PCR 4 of one set and PCR 11 of another: each is approved, but not together.
    let [base, other] = [&SECURE_BOOT_ON, &OTHER_KERNEL].map(|boot| boot.replayed(QUOTED));
    let mut mixed = ApprovedSet::of_host("mixed", "2026-12-01", &base, "sha256:4,7,12".parse().unwrap()).unwrap();
    let sections = ApprovedSet::of_host("other", "2026-12-01", &other, "sha256:11".parse().unwrap()).unwrap();
    mixed.registers.extend(sections.registers);
    let policy = of_secure_boot(Level::Measured).with_set(mixed, "compute").unwrap();
    assert!(policy.appraise("kvm-3", &other).is_err());
    assert_eq!(policy.appraise("kvm-3", &base).unwrap().sets(), ["base"]);
}

#[test]
fn levels_can_be_met_by_several_sets() {
    let base = SECURE_BOOT_ON.replayed(QUOTED);
    let set = |name: &str, registers: &str| {
        ApprovedSet::of_host(name, "2026-11-30", &base, registers.parse().unwrap()).unwrap()
    };
    let keys = policy_of(Level::SecureBoot, &base, "sha256:7");
    let policy = keys.with_set(set("kernel", "sha256:4,9,12"), "compute").unwrap();
    let satisfied = policy.appraise("kvm-3", &base).unwrap();
    assert_eq!(satisfied.sets(), ["base", "kernel"]);
    assert_eq!(policy.selection_for("kvm-3").unwrap().to_string(), "sha256:4,7,9,12");
    // A set that the level does not need may differ.
    let refusal = policy.appraise("kvm-3", &OTHER_KERNEL.replayed(QUOTED)).unwrap();
    assert_eq!(refusal.sets(), ["base"]);
}

#[test]
fn the_nearest_set_explains_a_refusal() {
    let policy = of_secure_boot(Level::Measured);
    let direct = ApprovedSet::of_host("direct", "2026-11-30", &DIRECT_KERNEL.replayed(QUOTED), QUOTED.parse().unwrap());
    let policy = policy.with_set(direct.unwrap(), "compute").unwrap();
    assert_eq!(refused(&policy, &OTHER_COMMAND_LINE).nearest.unwrap().set, "base");
}

#[test]
fn ignored_digests_are_ignored_in_their_register_only() {
    let digest_of = |content: &[u8]| Digest::of(HashAlgorithm::Sha256, &[content]);
    let log = |extra: &[(u32, &[u8])]| {
        let mut log =
            SampleLog::new().secure_boot(1).separators([7]).event(12, crate::event_log::EventType::IPL, b"line");
        for (register, content) in extra {
            log = log.event(*register, crate::event_log::EventType::IPL, content);
        }
        log.replayed("sha256:7,12,13")
    };
    let mut set = ApprovedSet::of_host("base", "2026-11-30", &log(&[]), "sha256:7,12,13".parse().unwrap()).unwrap();
    set.ignore(pcr(12), Approved { digest: digest_of(b"clock"), description: String::new() }).unwrap();
    let matches = |extra: &[(u32, &[u8])]| {
        let replayed = log(extra);
        set.registers().iter().all(|it| it.first_difference(replayed.events(it.register()).unwrap()).is_none())
    };
    assert!(matches(&[]) && matches(&[(12, b"clock"), (12, b"clock")]));
    assert!(!matches(&[(13, b"clock")]), "it is ignored in PCR 12 only");
    assert!(!matches(&[(12, b"other")]));
    assert!(!matches(&[(12, b"clock"), (12, b"line")]), "the rest stays in order and complete");
}

#[test]
fn a_quote_needs_all_registers_of_the_class() {
    let refusal =
        of_secure_boot(Level::Measured).appraise("kvm-3", &SECURE_BOOT_ON.replayed("sha256:4,7")).unwrap_err();
    assert_eq!((refusal.rule, refusal.register.unwrap().number()), (Rule::Selection, 0));
    assert!(refusal.to_string().contains("the quote is of sha256:4,7: expected sha256:0,2,4,7,9,11,12"), "{refusal}");
}

#[test]
fn hosts_are_in_the_first_class_that_has_their_name() {
    let text = "format = 1\nname = \"p\"\nbank = \"sha256\"\n[[class]]\nname = \"a\"\nhosts = [\"kvm-?\", \"x*y*z\"]\n\
                level = \"identity\"\n[[class]]\nname = \"b\"\nhosts = [\"*\"]\nlevel = \"identity\"\n";
    let policy = Policy::parse(text).unwrap();
    let class = |host: &str| policy.class_of(host).unwrap().name();
    assert_eq!(["kvm-1", "kvm-12", "xyz", "x.y.y.z", "x.z", ""].map(class), ["a", "b", "a", "a", "b", "b"]);
    // As slow as it gets: the pattern does not make a name be read more than twice.
    assert!(!matches(&"*a".repeat(200), &"a".repeat(100_000)[..199]));
    let nobody = Policy::parse(&text.replace("\"*\"", "\"z\"")).unwrap();
    let refusal = nobody.appraise("db-1", &SampleLog::new().replayed("sha256:4")).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "db-1 is refused. The rule is: every host is in a class. No class of policy \"p\" has this host."
    );
}

#[test]
fn the_text_of_a_policy_is_read_as_it_was_written() {
    let mut policy = of_secure_boot(Level::Pinned);
    let ignored = Approved { digest: Digest::zero(HashAlgorithm::Sha256), description: "a \"clock\"".to_owned() };
    policy.sets[0].ignore(pcr(12), ignored).unwrap();
    let again = Policy::parse(&policy.to_text()).unwrap();
    assert_eq!(again.sets(), policy.sets());
    assert_eq!(again.to_text(), policy.to_text());
    assert_eq!(ApprovedSet::parse(&policy.sets[0].to_text()).unwrap(), policy.sets[0]);
}

#[test]
fn mistakes_in_a_policy_are_named_with_their_line() {
    let text = of_secure_boot(Level::Measured).to_text();
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Policy::parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    for (from, to, why) in [
        ("level =", "lvel =", "unknown field `lvel`, expected one of `name`, `hosts`, `level`, `sets`, `learn`"),
        ("\"measured\"", "\"strict\"", "unknown variant `strict`"),
        ("format = 1", "format = 2", "format = 2: expected 1"),
        ("bank = \"sha256\"", "bank = \"sha1\"", "SHA-1 proves nothing"),
        ("bank = \"sha256\"", "bank = \"sha384\"", "expected one of sha384, the policy's bank"),
        ("sets = [\"base\"]", "sets = [\"bas\"]", "class \"compute\": there is no set \"bas\""),
        ("\"2026-11-30\"", "\"30.11.2026\"", "expected a date"),
        ("number = 4", "number = 5", "none of its sets has PCR 4, which level \"measured\" demands"),
        ("number = 4", "number = 7", "PCR 7: twice"),
        ("number = 12", "number = 10", "PCR 10: it changes while a host runs"),
        ("number = 12", "number = 24", "PCR 24: there are 0 to 23"),
        ("name = \"base\"", "name = \"a b\"", "letters, digits"),
        ("sha256:3d67", "sha256:xx67", "not a digest"),
        ("hosts = [\"kvm-*\"]", "hosts = []", "no hosts"),
        ("\"measured\"", "\"identity\"", "sets with level \"identity\""),
        ("sets = [", "learn = [10]\nsets = [", "class \"compute\": PCR 10: it changes"),
        ("sets = [", "learn = [24]\nsets = [", "class \"compute\": PCR 24: there are 0 to 23"),
    ] {
        let error = change(from, to);
        assert!(error.contains(why), "{from} -> {to}: {error}");
    }
    assert!(change("level =", "lvel =").starts_with("line 8: "), "{}", change("level =", "lvel ="));
}

#[test]
fn nesting_and_length_of_a_policy_are_bounded() {
    assert!(Policy::parse(&format!("name = {}", "[".repeat(20_000))).is_err());
    assert!(Policy::parse(&format!("{} = 1", "a.".repeat(20_000))).is_err());
    let long = Policy::parse(&"#".repeat(MAX_POLICY_BYTES + 1)).unwrap_err();
    assert!(long.to_string().contains("expected at most 4194304"), "{long}");
}

#[test]
fn an_old_set_retires_when_the_last_host_has_left_it() {
    let policy = of_secure_boot(Level::Measured);
    let next = |name: &str, approved: &str| {
        ApprovedSet::of_host(name, approved, &OTHER_KERNEL.replayed(QUOTED), QUOTED.parse().unwrap()).unwrap()
    };
    let policy = policy.with_set(next("next", "2026-12-01T08:00:00Z"), "compute").unwrap();
    let policy = policy.with_set(next("unbooted", "2026-12-02"), "compute").unwrap();
    let (old, new) = (["base".to_owned()], ["next".to_owned()]);
    let retires = |attested: &[(&str, &[String])]| {
        let uses = policy.set_use(attested);
        uses.iter().filter(|it| it.may_retire()).map(|it| it.set.name().to_owned()).collect::<Vec<_>>()
    };
    assert!(retires(&[]).is_empty());
    assert!(retires(&[("kvm-1", &old), ("kvm-2", &new)]).is_empty(), "kvm-1 is on it");
    assert_eq!(retires(&[("kvm-1", &new), ("kvm-2", &new)]), ["base"]);
    // Sets of other registers or other classes follow nothing.
    let mut other = next("other", "2026-12-03");
    other.registers.truncate(1);
    let others = policy.with_set(other, "compute").unwrap();
    let other = ["other".to_owned()];
    assert!(others.set_use(&[("kvm-1", &other)]).iter().all(|it| !it.may_retire()));
    let elsewhere = policy.to_text().replace(
        "\"unbooted\",\n]",
        "]\n\n[[class]]\nname = \"storage\"\nhosts = [\"s\"]\nlevel = \"measured\"\nsets = [\"unbooted\"]",
    );
    let elsewhere = Policy::parse(&elsewhere).unwrap();
    let unbooted = ["unbooted".to_owned()];
    assert!(elsewhere.set_use(&[("s", &unbooted)]).iter().all(|it| !it.may_retire()));
    let retired = policy.without_set("base").unwrap();
    assert!(retired.appraise("kvm-1", &SECURE_BOOT_ON.replayed(QUOTED)).is_err());
    let last = retired.without_set("next").unwrap().without_set("unbooted").unwrap_err();
    assert!(last.to_string().contains("none of its sets has PCR 7"), "{last}");
    let keep = policy.to_text().replace("name = \"base\"", "name = \"base\"\nkeep = true");
    let keep = Policy::parse(&Policy::parse(&keep).unwrap().to_text()).unwrap();
    assert!(keep.set_use(&[("kvm-1", &new)]).iter().all(|it| !it.may_retire()));
}

#[test]
fn a_dry_run_says_who_would_fail_and_why() {
    let values = Boot::ALL.map(|boot| boot.values(QUOTED));
    let evidence = Boot::ALL.iter().zip(&values).map(|(boot, values)| Evidence {
        host: "kvm-3",
        firmware_log: boot.log,
        userspace_log: b"",
        values,
    });
    let broken = Evidence { host: "kvm-4", firmware_log: b"", userspace_log: b"", values: &values[0] };
    let swapped = Evidence { values: &values[4], firmware_log: SECURE_BOOT_ON.log, ..broken };
    let result = dry_run(&of_secure_boot(Level::Measured), evidence.chain([broken, swapped]));
    assert_eq!(result.passed, [Passed { host: "kvm-3".to_owned(), sets: vec!["base".to_owned()] }]);
    let rules: Vec<Rule> = result.refused.iter().map(|refusal| refusal.rule).collect();
    let sets = Rule::ApprovedSets;
    assert_eq!(rules, [Rule::SecureBoot, sets, sets, Rule::SecureBoot, Rule::EventLog, Rule::Replay]);
}

pub(super) fn pcr(number: u32) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}
