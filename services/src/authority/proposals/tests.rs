use super::*;

fn set(name: &str, digest: u64) -> ApprovedSet {
    let text = format!(
        "name = {name:?}\napproved = \"2026-11-30\"\n[[pcr]]\nnumber = 4\nmeasured = [\"sha256:{digest:064x} {name}\"]\n"
    );
    ApprovedSet::parse(&text).unwrap()
}

fn proposal(host: &str, digest: u64) -> Proposal {
    Proposal::new("compute", Source::Host, Some(host), &set("next", digest))
}

fn add(proposals: &Proposals, proposal: Proposal) -> Result<bool> {
    proposals.add(proposal, || Ok(()))
}

#[test]
fn the_same_digests_of_several_hosts_are_one_proposal() {
    let dir = tempfile::tempdir().unwrap();
    let proposals = Proposals::load(dir.path().to_path_buf()).unwrap();
    assert!(add(&proposals, proposal("kvm1", 1)).unwrap());
    assert!(!proposals.add(proposal("kvm1", 1), || panic!("nothing is new")).unwrap());
    let other_words = Proposal::new("compute", Source::Host, Some("kvm2"), &set("other", 1));
    assert!(add(&proposals, other_words.clone()).unwrap());
    let other_class = Proposal::new("storage", Source::Host, Some("kvm2"), &set("other", 1));
    assert_ne!(other_class.id, other_words.id);
    for number in 0..MAX_NAMED {
        add(&proposals, proposal(&format!("web{number}"), 1)).unwrap();
    }
    let [found] = proposals.list().try_into().unwrap();
    assert_eq!(
        (found.hosts.len(), found.more_hosts, &found.hosts[..2]),
        (MAX_NAMED, 2, &["kvm1".into(), "kvm2".into()][..])
    );
    let again = Proposals::load(dir.path().to_path_buf()).unwrap();
    assert_eq!(again.get(&found.id).unwrap().read_set().unwrap(), set("next", 1));
    again.remove(&found.id).unwrap();
    assert_eq!(again.remove(&found.id).unwrap_err().kind(), Kind::NotFound);
    assert!(Proposals::load(dir.path().to_path_buf()).unwrap().list().is_empty());
}

#[test]
fn one_host_fills_a_small_part_and_all_hosts_a_bounded_one() {
    let dir = tempfile::tempdir().unwrap();
    let proposals = Proposals::load(dir.path().to_path_buf()).unwrap();
    let many = |host: &str| {
        let of = |digest| add(&proposals, proposal(host, digest));
        let from = 1 + 1000 * host.len() as u64;
        (from..from + 300).take_while(|digest| of(*digest).is_ok()).count()
    };
    assert_eq!(many("a"), MAX_OF_HOST);
    let all: usize = (2..80).map(|len| many(&"a".repeat(len))).sum();
    assert_eq!(all + MAX_OF_HOST, MAX);
    assert_eq!(add(&proposals, proposal("b", 1)).unwrap_err().kind(), Kind::Busy);
    assert!(add(&proposals, proposal("b", 1001)).unwrap(), "one that is there takes other hosts");
}

#[test]
fn a_proposal_that_has_ended_does_not_come_back_by_hosts_that_join_it() {
    let dir = tempfile::tempdir().unwrap();
    let proposals = Proposals::load(dir.path().to_path_buf()).unwrap();
    let first = proposal("kvm0", 1);
    for _ in 0..10 {
        add(&proposals, first.clone()).unwrap();
        std::thread::scope(|scope| {
            let hosts = scope.spawn(|| {
                let ended = (1..MAX_NAMED).find(|number| {
                    add(&proposals, proposal(&format!("kvm{number}"), 1)).unwrap();
                    !proposals.list().iter().any(|waiting| waiting.hosts.contains(&"kvm0".to_owned()))
                });
                ended.unwrap_or_default()
            });
            std::thread::yield_now();
            proposals.remove(&first.id).unwrap();
            hosts.join().unwrap();
        });
        let there = Proposals::load(dir.path().to_path_buf()).unwrap().list();
        assert_eq!(there.len(), proposals.list().len(), "{there:?}");
        proposals.remove(&first.id).ok(); // hosts that came afterwards have made it once more
    }
    // Nor does one stay whose file somebody has removed.
    add(&proposals, first.clone()).unwrap();
    fs::remove_file(dir.path().join(format!("{}.json", first.id))).unwrap();
    proposals.remove(&first.id).unwrap();
    assert!(proposals.list().is_empty());
}

/// What a host may send must not keep the authority from starting again.
#[test]
fn the_longest_proposal_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let proposals = Proposals::load(dir.path().to_path_buf()).unwrap();
    let mut longest = proposal("kvm1", 1);
    longest.set.push_str(&"\\".repeat(MAX_PROPOSAL - longest.set.len()));
    longest.hosts = (0..MAX_NAMED).map(|_| "h".repeat(253)).collect();
    add(&proposals, longest.clone()).unwrap();
    let again = Proposals::load(dir.path().to_path_buf()).unwrap();
    assert_eq!(again.get(&longest.id).unwrap().set, longest.set);
}

#[test]
fn none_is_kept_without_its_entry_and_a_damaged_one_stops_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let proposals = Proposals::load(dir.path().to_path_buf()).unwrap();
    proposals.add(proposal("kvm1", 1), || Err(Error::new(Kind::Io, "no space"))).unwrap_err();
    assert!(proposals.list().is_empty());
    let mut long = proposal("kvm1", 1);
    long.set = "#".repeat(MAX_PROPOSAL + 1);
    assert_eq!(add(&proposals, long).unwrap_err().kind(), Kind::Invalid);
    add(&proposals, proposal("kvm1", 1)).unwrap();
    let path = dir.path().join(format!("{}.json", proposal("kvm1", 1).id));
    fs::rename(&path, dir.path().join("0123456789abcdef.json")).unwrap();
    assert_eq!(Proposals::load(dir.path().to_path_buf()).map(drop).unwrap_err().kind(), Kind::Corrupt);
}
