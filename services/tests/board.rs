//! Boards: what each kind of them does, and what happens when it is in trouble. Real etcd, with TLS and RBAC.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "board/answers.rs"]
mod answers;
#[path = "board/conformance.rs"]
mod conformance;
#[path = "board/etcd.rs"]
mod etcd;
#[path = "board/faults.rs"]
mod faults;
#[path = "board/figures.rs"]
mod figures;
#[path = "board/hosts.rs"]
mod hosts;
#[path = "../../tests/testkit/not_run.rs"]
mod not_run;
#[path = "board/push.rs"]
mod push;
#[path = "board/push_figure.rs"]
mod push_figure;
#[path = "board/thousand.rs"]
mod thousand;

#[path = "../../tests/kmip/certificates.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod certificates;
#[path = "../../tests/testkit/datastore.rs"]
mod datastore;
#[path = "../../tests/kmip/pykmip.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod pykmip;
#[path = "../../tests/kmip/site.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod site;

/// As the tests of key servers name it.
mod testkit {
    pub(crate) use crate::datastore;
}
