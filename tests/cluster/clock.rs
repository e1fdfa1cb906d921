//! Clocks that jump by most of an hour, as after a mistake with time zones: of a gateway, and of
//! Postgres, where the leases are. libfaketime moves the clock of one process. It cannot move
//! Redis's: it does not get along with the jemalloc that Redis is built with.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, in_both_modes};

in_both_modes!(
    a_gateway_whose_clock_jumps_loses_nothing,
    a_postgres_whose_clock_jumps_loses_nothing,
);

/// A clock that can be moved while a process runs.
struct Clock {
    _folder: TempDir,
    offset: PathBuf,
}

impl Clock {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Postgres runs as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let clock = Self { offset: folder.path().join("offset"), _folder: folder };
        clock.is_off_by(0);
        clock
    }

    /// What a process needs to go by it. Its monotonic clock stays as it is.
    fn env(&self) -> Vec<(String, String)> {
        let mut wrapper = Command::new("faketime");
        wrapper.args(["-f", "+0s", "printenv", "LD_PRELOAD"]);
        let said = wrapper.output().expect("scripts/setup.sh test installs faketime");
        let library = String::from_utf8(said.stdout).unwrap().trim().to_owned();
        let offset = self.offset.to_str().unwrap().to_owned();
        let on = || "1".to_owned();
        let env = [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", offset),
            ("FAKETIME_NO_CACHE", on()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
            ("DONT_FAKE_MONOTONIC", on()),
        ];
        env.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    fn is_off_by(&self, seconds: i64) {
        // Read at any moment: never half written.
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}s\n")).unwrap();
        std::fs::rename(&new, &self.offset).unwrap();
    }
}

const JUMPS_S: [i64; 3] = [3000, -3000, 0];

async fn a_gateway_whose_clock_jumps_loses_nothing(durability: Durability) {
    let clock = Clock::new();
    jumps(&clock, &Plan { gateway_env: clock.env(), ..Plan::new(durability, 2) }).await;
}

async fn a_postgres_whose_clock_jumps_loses_nothing(durability: Durability) {
    let clock = Clock::new();
    jumps(&clock, &Plan { postgres_env: clock.env(), ..Plan::new(durability, 2) }).await;
}

async fn jumps(clock: &Clock, plan: &Plan) {
    let mut cluster = Cluster::of(plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for seconds in JUMPS_S {
        clock.is_off_by(seconds);
        load.serves_within(BACK_WITHIN).await;
        cluster.some_time(200, 800).await;
        cluster.redis.flush_all();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
