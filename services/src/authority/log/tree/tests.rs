use data_encoding::HEXLOWER;

use super::*;

/// The leaves of the test data of RFC 6962's reference implementation.
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

fn tree(size: usize) -> (Tree, Vec<Hash>) {
    let entry = |n: usize| {
        LEAVES.get(n).map_or_else(|| n.to_string().into_bytes(), |hex| HEXLOWER.decode(hex.as_bytes()).unwrap())
    };
    let leaves: Vec<Hash> = (0..size).map(|n| leaf_hash(&entry(n))).collect();
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    (tree, leaves)
}

/// MTH as RFC 9162, 2.1.1, defines it.
fn defined(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::new().finish(),
        [leaf] => *leaf,
        leaves => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&defined(left), &defined(right))
        }
    }
}

#[test]
fn roots_are_the_published_ones_and_those_of_the_definition() {
    let (eight, _) = tree(8);
    for (size, root) in [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ] {
        assert_eq!(HEXLOWER.encode(&eight.root(size).unwrap()), root, "{size}");
    }
    let (all, leaves) = tree(70);
    for size in 0..=70 {
        assert_eq!(all.root(size).unwrap(), defined(&leaves[..size]), "{size}");
    }
    assert!(all.root(71).is_none() && all.inclusion(70, 70).is_none() && all.consistency(3, 71).is_none());
}

#[test]
fn each_proof_holds_for_what_it_is_of_and_for_nothing_else() {
    let (all, leaves) = tree(34);
    for size in 1..=34 {
        let root = all.root(size).unwrap();
        for index in 0..size {
            let path = all.inclusion(index, size).unwrap();
            assert!(includes(&root, size, index, leaves[index], &path), "{index} of {size}");
            assert!(!includes(&root, size, index, leaves[index ^ 1], &path));
            assert!(!includes(&root, size, index + 1, leaves[index], &path), "{index} of {size}");
            let longer = [path.as_slice(), &[root]].concat();
            assert!(!includes(&root, size, index, leaves[index], &longer));
            for at in 0..path.len() {
                let mut wrong = path.clone();
                wrong[at][0] ^= 1;
                assert!(!includes(&root, size, index, leaves[index], &wrong));
                assert!(!includes(&root, size, index, leaves[index], &path[..at]));
            }
        }
        for old in 0..=size {
            let before = all.root(old).unwrap();
            let path = all.consistency(old, size).unwrap();
            assert!(extends((&before, old), (&root, size), &path), "{old} to {size}");
            let other = [9; 32];
            assert!(!extends((&other, old), (&root, size), &path), "{old} to {size}");
            assert!(!extends((&before, old), (&other, size), &path) || old == 0, "{old} to {size}");
            for at in 0..path.len() {
                let mut wrong = path.clone();
                wrong[at][31] ^= 1;
                assert!(!extends((&before, old), (&root, size), &wrong), "{old} to {size}");
                assert!(!extends((&before, old), (&root, size), &path[..at]), "{old} to {size}");
            }
        }
    }
}

/// RFC 9162, 2.1.5: the tree of seven leaves.
#[test]
fn proofs_are_those_of_the_example_in_the_rfc() {
    let (all, leaves) = tree(7);
    let [a, b, c, d, e, f, j] = [0, 1, 2, 3, 4, 5, 6].map(|n| leaves[n]);
    let (g, h, i) = (node_hash(&a, &b), node_hash(&c, &d), node_hash(&e, &f));
    let k = node_hash(&g, &h);
    let l = node_hash(&i, &j);
    assert_eq!(all.inclusion(0, 7).unwrap(), [b, h, l]);
    assert_eq!(all.inclusion(3, 7).unwrap(), [c, g, l]);
    assert_eq!(all.inclusion(4, 7).unwrap(), [f, j, k]);
    assert_eq!(all.inclusion(6, 7).unwrap(), [i, k]);
    assert_eq!(all.consistency(3, 7).unwrap(), [c, d, g, l]);
    assert_eq!(all.consistency(4, 7).unwrap(), [l]);
    assert_eq!(all.consistency(6, 7).unwrap(), [i, j, k]);
}
