//! The ledger's files are readable by their owner alone.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use http::Method;

use crate::process::{Process, address_of, command, config_on_ports, ok};

const FILES: [&str; 4] = ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"];

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn assert_private(folder: &Path, files: &[&str]) {
    for file in files {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}: {:o}", mode(&folder.join(file)));
    }
}

/// `farebox` under this umask.
fn under(umask: &str, folder: &Path, arguments: &[&str]) -> Command {
    let farebox = command(folder, arguments, &[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
    shell.arg(farebox.get_program()).args(farebox.get_args()).current_dir(folder);
    shell
}

fn config(folder: &Path) -> String {
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    std::fs::write(folder.join("gateway.toml"), &text).unwrap();
    text
}

#[tokio::test]
async fn the_ledgers_files_and_backups_are_their_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let folder = tempfile::tempdir().unwrap();
        let text = config(folder.path());
        let (public, admin) = (address_of(&text, "listen"), address_of(&text, "admin"));
        let gateway = Process::start(under(umask, folder.path(), &["serve"]), public, admin);
        gateway.grant("alice", 5, "gift").await;
        assert_private(folder.path(), &FILES);
        let backup = under(umask, folder.path(), &["backup", "copy.db"]).status().unwrap();
        assert!(backup.success(), "{umask}");
        assert_private(folder.path(), &["copy.db"]);
        drop(gateway);
        assert!(ok(folder.path(), &["account", "show", "alice"]).contains("balance 5,"));
    }
}

/// The files have the rights that an earlier version gave them. The ledger is also reached by a
/// symbolic link.
#[tokio::test]
async fn files_that_others_can_read_are_tightened_at_the_start_and_the_log_says_so() {
    for by_link in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let text = config(folder.path());
        if by_link {
            std::fs::create_dir(folder.path().join("volume")).unwrap();
            symlink("volume/real.db", folder.path().join("ledger.db")).unwrap();
        }
        let files = match by_link {
            true => ["real.db", "real.db-wal", "real.db-shm", "real.db.lock"],
            false => FILES,
        };
        let place = if by_link { folder.path().join("volume") } else { folder.path().to_owned() };
        let mut gateway = Process::serve(folder.path(), &text);
        gateway.grant("alice", 5, "gift").await;
        assert_private(&place, &files);
        // Killed, it leaves all of them.
        gateway.kill();
        for file in files {
            let wide = Permissions::from_mode(if file.ends_with("wal") { 0o666 } else { 0o644 });
            std::fs::set_permissions(place.join(file), wide).unwrap();
        }
        let gateway = Process::serve(folder.path(), &text);
        assert_private(&place, &files);
        for file in files {
            let told = gateway.stderr();
            let lines = told.lines().filter(|line| line.contains("other users"));
            let told = lines.filter(|l| l.contains(&format!("{file} ")) || l.ends_with(file));
            assert_eq!(told.count(), 1, "{file}: {}", gateway.stderr());
        }
        assert_eq!(gateway.account("alice").await["balance"], 5);
        gateway.admin(Method::GET, "/admin/reconcile", "").await.expect(200);
    }
}
