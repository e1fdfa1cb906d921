//! INFO: a Redis server's report about itself, and the check whether a ledger may live in it.

use crate::ledger::LedgerError;

/// The oldest Redis that has all commands of the scripts. Every Valkey is newer.
const OLDEST_REDIS: u32 = 7;

/// The fields of INFO that are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// `maxmemory-policy`.
    pub eviction: String,
    /// Product and version: `redis 7.0.15`, `valkey 8.1.0`.
    pub name: String,
    /// The version of Redis that the server is, or is compatible with. Empty if the server hides
    /// it.
    pub version: String,
    /// The memory in use, in bytes.
    pub used_memory: i64,
    /// The most memory that the server may use, in bytes; 0 for no limit.
    pub max_memory: i64,
    /// The number of scripts that the server remembers.
    pub scripts: i64,
    /// The number of replicas that are connected.
    pub replicas: i64,
    /// The replication id, which changes whenever the server becomes a master.
    pub replication_id: String,
    /// An id that changes with each start of the server. Empty if the server hides it.
    pub run_id: String,
    /// Whether the server is a replica.
    pub is_replica: bool,
}

impl Info {
    /// Adds the fields of a section.
    pub fn read(&mut self, section: &str) {
        for (name, value) in section.lines().filter_map(|line| line.trim().split_once(':')) {
            match name {
                "redis_version" => {
                    self.version = value.to_owned();
                    if self.name.is_empty() {
                        self.name = format!("redis {value}");
                    }
                }
                // Only Valkey has this field. Its `redis_version` is the version of Redis that it
                // is compatible with.
                "valkey_version" => self.name = format!("valkey {value}"),
                "maxmemory_policy" => self.eviction = value.to_owned(),
                "maxmemory" => self.max_memory = value.parse().unwrap_or(0),
                "used_memory" => self.used_memory = value.parse().unwrap_or(0),
                "master_replid" => self.replication_id = value.to_owned(),
                "number_of_cached_scripts" => self.scripts = value.parse().unwrap_or(0),
                "run_id" => self.run_id = value.to_owned(),
                "role" => self.is_replica = value == "slave",
                "connected_slaves" => self.replicas = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// Whether at least nine tenths of the allowed memory are in use.
    pub fn is_nearly_full(&self) -> bool {
        self.max_memory > 0 && self.used_memory >= self.max_memory / 10 * 9
    }

    /// The identity of a Redis with its data. It differs between two servers, and changes when a
    /// server restarts or is promoted.
    pub fn identity(&self) -> String {
        format!("{} {}", self.run_id, self.replication_id)
    }

    /// Checks that the server is new enough, never evicts keys, and tells its replication id.
    ///
    /// # Errors
    /// [`LedgerError::Disagrees`], with a hint that names the remedy.
    pub fn check(&self) -> Result<(), LedgerError> {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        // A server that hides its version is accepted.
        if major.is_some_and(|major| major < OLDEST_REDIS) {
            let what = format!("its Redis is {}", self.name);
            let hint = "run Redis 7 or newer, or Valkey";
            return Err(LedgerError::Disagrees { what, hint });
        }
        if self.eviction != "noeviction" {
            let what = format!("its Redis has maxmemory-policy {}", self.eviction);
            let hint = "set maxmemory-policy noeviction: any other policy may throw credits away";
            return Err(LedgerError::Disagrees { what, hint });
        }
        // Every real server, master or replica, has a replication id.
        if self.replication_id.is_empty() {
            let what = "its Redis hides `master_replid` in INFO".to_owned();
            let hint = "take a Redis whose INFO replication shows master_replid: Farebox tells by it that a \
                        failover or a restore has lost data";
            return Err(LedgerError::Disagrees { what, hint });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sections of INFO of a server, reduced to the fields that are read.
    fn info(server: &str) -> Info {
        let mut info = Info::default();
        info.read(server);
        info.read("# Memory\r\nused_memory:1024\r\nmaxmemory_policy:noeviction\r\n");
        info.read("# Replication\r\nrole:master\r\nconnected_slaves:1\r\nmaster_replid:ab\r\n");
        info
    }

    #[test]
    fn redis_7_and_valkey_are_taken_and_older_ones_are_not() {
        let valkey =
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.3\r\n";
        for (server, name) in [
            ("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n", "redis 7.0.15"),
            ("# Server\r\nredis_version:8.2.1\r\n", "redis 8.2.1"),
            (valkey, "valkey 8.1.3"),
            // A managed server that hides its version.
            ("", ""),
        ] {
            let info = info(server);
            assert_eq!(info.name, name);
            info.check().unwrap();
            let read = (info.used_memory, info.replicas, info.replication_id.as_str());
            assert_eq!(read, (1024, 1, "ab"));
        }
        for old in ["6.2.14", "5.0.7"] {
            let error = info(&format!("redis_version:{old}\r\n")).check().unwrap_err().to_string();
            assert!(
                error.contains(&format!("redis {old}")) && error.contains("Redis 7"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_redis_is_known_by_its_start_and_its_history() {
        let one = info("run_id:one\r\n");
        assert_eq!((one.identity().as_str(), one.is_replica), ("one ab", false));
        let mut demoted = one.clone();
        demoted.read("role:slave\r\nmaster_replid:cd\r\n");
        assert!(demoted.is_replica && demoted.identity() != one.identity());
        assert_ne!(info("run_id:two\r\n").identity(), one.identity());
    }

    #[test]
    fn a_redis_that_hides_its_history_is_refused() {
        let mut info = info("redis_version:7.0.15\r\n");
        info.replication_id.clear();
        let error = info.check().unwrap_err().to_string();
        assert!(error.contains("`master_replid`") && error.contains("INFO replication"), "{error}");
    }

    #[test]
    fn a_redis_that_evicts_is_refused() {
        let mut info = info("redis_version:7.0.15\r\n");
        info.read("maxmemory_policy:allkeys-lru\r\n");
        let error = info.check().unwrap_err().to_string();
        assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
    }
}
