use std::fs::{self, File};

use super::*;
use crate::format::header::DECRYPTING_FILE;
use crate::progress::Progress;
use crate::vm::datastore::Datastore;
use crate::work::convert::planning_tests::{clear_vm, encrypt};

/// What a full file system leaves of a home file: only a header's length, and nothing in it.
#[test]
fn a_home_file_without_a_header_is_empty_after_a_decryption_that_was_interrupted() {
    for (of_home, nth) in [(false, 1), (true, 1), (true, 4)] {
        let store = Datastore::with_providers(&["local"]);
        let vm = clear_vm(&store);
        encrypt(&vm, &store, &mut |_| Ok(())).unwrap();
        let holes = [vm.join("a.nvram"), vm.join("z.nvram"), vm.join("z.raw")];
        holes.iter().for_each(|hole| File::create(hole).unwrap().set_len(512).unwrap());
        let providers = store.providers();
        let decrypt = |on_progress: OnProgress<'_>| {
            let (what, engine) = (DecryptScope::All, Engine::default());
            let decryption = Decryption::prepare(&vm, &providers, what, Believed::default(), engine, &mut |_| Ok(()))?;
            decryption.run(on_progress, &mut |_| ()).map(drop)
        };
        let mut asked = 0;
        let stopped = decrypt(&mut |progress: &Progress| {
            asked += usize::from(!progress.is_looking() && vm.join(DECRYPTING_FILE).exists() == of_home);
            if asked == nth { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
        });
        assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
        decrypt(&mut |_| Ok(())).unwrap();
        for hole in &holes {
            assert_eq!(fs::metadata(hole).unwrap().len(), 0, "{} {of_home} {nth}", hole.shown());
        }
    }
}
