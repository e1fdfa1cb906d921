//! Checks whether a Redis is fit for the ledger: its version and settings, and whether this gateway's user may run
//! every command that the ledger needs. A managed Redis may lack commands, and an ACL may forbid some.

use crate::ledger::LedgerError;
use crate::store::cluster::redis::connection::Redis;
use crate::store::cluster::redis::script::{SHARD, tag};

/// A script that runs, on a key that is removed at once, every command that the ledger sends directly or from a script.
/// The script returns the commands that are forbidden or missing, preceded by Redis's error for the first of them. Other errors
/// are ignored: most commands find a value of another type at the key, or no value.
const PROBE: &str = r"
local key, found, said = KEYS[1], {}, nil
local function try(name, ...)
    local reply = redis.pcall(name, ...)
    local text = type(reply) == 'table' and reply.err
    for _, words in ipairs({ 'NOPERM', 'ACL failure', 'executing the script can', 'nknown' }) do
        if text and string.find(text, words, 1, true) then
            found[#found + 1] = name
            said = said or text
            return
        end
    end
end
try('HSET', key, 'a', '1', 'b', '1')
try('HGET', key, 'a')
try('HMGET', key, 'a')
try('HEXISTS', key, 'a')
try('HLEN', key)
try('HVALS', key)
try('HSCAN', key, '0')
try('HDEL', key, 'a')
try('XADD', key, '1-1', 'b', '1')
try('XRANGE', key, '-', '+', 'COUNT', '1')
try('XTRIM', key, 'MINID', '0')
try('EXISTS', key)
try('PEXPIRE', key, '1000')
try('MEMORY', 'USAGE', key)
try('GET', key)
try('MGET', key)
try('DEL', key)
try('SET', key, '1', 'PX', '1000')
try('MSET', key, '1')
try('UNLINK', key)
try('SCAN', '0', 'COUNT', '1')
try('INFO', 'replication')
try('TIME')
return { said or '', unpack(found) }
";

/// Checks the server, and the rights of this gateway's user.
///
/// # Errors
/// Fails with [`LedgerError::Disagrees`], which says what is wrong and what to do, or with another error if Redis
/// cannot be asked.
pub(crate) async fn check(redis: &Redis) -> Result<(), LedgerError> {
    let info = redis.info().await.map_err(|error| forbidden("INFO", error))?;
    info.check()?;
    match info.is_replica {
        // A replica accepts no writes. The gateway waits for the master.
        true => Ok(()),
        false => check_rights(redis).await,
    }
}

async fn check_rights(redis: &Redis) -> Result<(), LedgerError> {
    let key = format!("{}probe", tag(SHARD));
    redis.time_ms().await.map_err(|error| forbidden("TIME", error))?;
    let sha = redis.load(PROBE).await.map_err(|error| forbidden("SCRIPT LOAD", error))?;
    let found: Vec<String> =
        redis.run_loaded(sha, key).await.map_err(|error| forbidden("EVALSHA", error))?;
    match found.split_first() {
        Some((said, commands)) if !commands.is_empty() => Err(refusal(&commands.join(", "), said)),
        _ => Ok(()),
    }
}

/// Converts the error of a command: into a refusal if Redis forbids the command or does not know it.
fn forbidden(command: &str, error: LedgerError) -> LedgerError {
    let LedgerError::Redis(failure) = &error else { return error };
    let text = failure.to_string();
    let is_refused = ["NOPERM", "unknown command", "unknown subcommand"].iter();
    match is_refused.clone().any(|words| text.contains(words)) {
        true => refusal(command, &text),
        false => error,
    }
}

fn refusal(commands: &str, said: &str) -> LedgerError {
    LedgerError::Disagrees {
        what: format!("its Redis refuses {commands}, which the ledger needs; Redis says: {said}"),
        hint: "give the user of redis_url the rights under \"Redis refuses the gateway\" in docs/runbook.md; where the \
               provider cannot, take another Redis",
    }
}
