//! `farebox import --csv` and `farebox key import`, which import accounts and keys of an earlier
//! system.

use std::path::Path;

use farebox::ledger::KeyHash;

use crate::cli::{folder, ledger_only};
use crate::process::{command, fails, ok};

#[test]
fn accounts_and_keys_are_imported_once() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    let rows = "account,credits,id\nalice,100.5,old-1\nbob,7,old-2\n\"a,b\",1,old-3\n";
    std::fs::write(at.join("old.csv"), rows).unwrap();
    for _ in 0..2 {
        ok(at, &["import", "--csv", "old.csv"]);
        let list = ok(at, &["account", "list"]);
        assert!(list.contains("100.5") && list.contains("a,b"), "{list}");
        assert_eq!(list.lines().count(), 3, "{list}");
    }
    // A file with a row that cannot be imported is refused as a whole. Once the row is corrected,
    // all of the file is imported.
    std::fs::write(at.join("bad.csv"), "account,credits,id\ncarol,5,old-4\ndave,-5,old-5\n")
        .unwrap();
    let errors = fails(at, &["import", "--csv", "bad.csv"], 1);
    assert!(errors.contains("bad.csv:3"), "{errors}");
    fails(at, &["account", "show", "carol"], 1);
    std::fs::write(at.join("bad.csv"), "account,credits,id\ncarol,5,old-4\ndave,5,old-5\n")
        .unwrap();
    ok(at, &["import", "--csv", "bad.csv"]);
    assert!(ok(at, &["account", "show", "carol"]).contains("balance 5,"));
    std::fs::write(at.join("columns.csv"), "account,id\nx,y\n").unwrap();
    assert!(fails(at, &["import", "--csv", "columns.csv"], 1).contains("credits"));
    fails(at, &["import", "--csv", "nowhere.csv"], 1);

    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    std::fs::write(at.join("keys.csv"), format!("account,hash,name\nalice,{hash},phone\n"))
        .unwrap();
    for _ in 0..2 {
        ok(at, &["key", "import", "keys.csv"]);
    }
    assert_eq!(ok(at, &["key", "list", "alice"]).lines().count(), 1);
    std::fs::write(at.join("keys.csv"), "account,hash\nalice,abc\n").unwrap();
    fails(at, &["key", "import", "keys.csv"], 1);
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

/// A file of keys: `count` of them from number `first` on, each of an account of its own.
pub fn write_keys(file: &Path, first: usize, count: usize) {
    let row = |n: usize| format!("customer-{n},{}\n", KeyHash::of(&format!("sk-{n}")));
    let rows: String = (first..first + count).map(row).collect();
    std::fs::write(file, format!("account,hash\n{rows}")).unwrap();
}

#[test]
fn a_whole_customer_base_of_keys_is_imported_and_may_be_again() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    let file = at.join("keys.csv");
    // As after an interruption, a part of the file is in the ledger.
    write_keys(&file, 0, 700);
    assert!(ok(at, &["key", "import", "keys.csv"]).contains("imported 700 keys; 0 were"));
    write_keys(&file, 0, 20_000);
    let said = ok(at, &["key", "import", "keys.csv"]);
    assert!(said.contains("imported 19300 keys; 700 were there already"), "{said}");
    let said = ok(at, &["key", "import", "keys.csv"]);
    assert!(said.contains("imported 0 keys; 20000 were there already"), "{said}");
    assert_eq!(ok(at, &["key", "list", "customer-19999"]).lines().count(), 1);
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[test]
fn keys_that_cannot_be_imported_say_where_they_stand() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    let file = at.join("keys.csv");
    write_keys(&file, 0, 1_200);
    let rows = std::fs::read_to_string(&file).unwrap();
    // A key that is malformed is found before anything is sent.
    for bad in ["customer-9,abc\n", ",9f86\n"] {
        std::fs::write(&file, format!("{rows}{bad}")).unwrap();
        let errors = fails(at, &["key", "import", "keys.csv"], 1);
        assert!(errors.contains("keys.csv:1202"), "{errors}");
        fails(at, &["account", "show", "customer-0"], 1);
    }
    // A key that belongs to another account is found before anything is sent as well.
    let others: String =
        ["sk-7", "sk-700", "sk-1100"].map(|key| format!("other,{}\n", KeyHash::of(key))).concat();
    std::fs::write(&file, format!("account,hash\n{others}")).unwrap();
    ok(at, &["key", "import", "keys.csv"]);
    std::fs::write(&file, rows).unwrap();
    let errors = fails(at, &["key", "import", "keys.csv"], 1);
    for line in [9, 702, 1102] {
        let mistake = format!("keys.csv:{line}: This key is stored already, for another account");
        assert!(errors.contains(&mistake), "{errors}");
    }
    assert!(errors.contains("3 mistakes; nothing was imported"), "{errors}");
    fails(at, &["account", "show", "customer-0"], 1);
}

#[test]
fn an_account_that_is_brought_over_with_nothing_gets_no_sign_up_grant() {
    let folder = folder();
    let at = folder.path();
    let text = "[ledger]\npath = \"ledger.db\"\n[credits]\nsignup_grant = 12\n";
    std::fs::write(at.join("gateway.toml"), text).unwrap();
    let rows = "account,credits,id\nspent,0,old-1\nrich,7.5,old-2\nspent-too,0.0,old-3\n";
    std::fs::write(at.join("old.csv"), rows).unwrap();
    let said = ok(at, &["import", "--csv", "old.csv"]);
    assert!(said.contains("imported 3 rows with 7.5 credits; 0 were there already"), "{said}");
    for (account, balance) in [("spent", "0"), ("rich", "7.5"), ("spent-too", "0"), ("new", "12")] {
        ok(at, &["key", "create", account]);
        let shown = ok(at, &["account", "show", account]);
        assert!(shown.contains(&format!("balance {balance},")), "{shown}");
    }
    // A row with nothing counts once as any other does.
    let said = ok(at, &["import", "--csv", "old.csv"]);
    assert!(said.contains("imported 0 rows; 3 were there already"), "{said}");
    std::fs::write(at.join("old.csv"), "account,credits,id\nspent,5,old-1\n").unwrap();
    let errors = fails(at, &["import", "--csv", "old.csv"], 1);
    assert!(errors.contains("old.csv:2: This id was used before"), "{errors}");
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[test]
fn every_mistake_of_an_import_is_told_with_its_line_before_anything_moves() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    ok(at, &["grant", "alice", "5", "--id", "known"]);
    let lines = [
        "account,credits,id,payment_intent,paid",
        "good,5,old-1,,",              // 2
        "good,-5,old-2,,",             // 3
        "good,1e3,old-3,,",            // 4
        "good,0.0000001,old-4,,",      // 5
        "a b,5,old-5,,",               // 6
        "good,5,old-1,,",              // 7
        "good,5,,,",                   // 8
        "good,5",                      // 9
        "alice,6,known,,",             // 10
        "good,5,old-6,pi_1,1.00 EUR",  // 11
        "other,5,old-7,pi_1,1.00 EUR", // 12
        "good,5,old-8,ch_1,1.00 EUR",  // 13
        "good,5,old-9,pi_2,1 euro",    // 14
        "good,5,old-10,pi_3,",         // 15
        "b c,x,d e,,",                 // 16
        "good,5,old-11,,",             // 17
    ];
    std::fs::write(at.join("old.csv"), lines.join("\n")).unwrap();
    for arguments in
        [&["import", "--csv", "old.csv"][..], &["import", "--csv", "old.csv", "--dry-run"]]
    {
        let errors = fails(at, arguments, 1);
        for (line, what) in [
            (3, "negative"),
            (4, "decimal"),
            (5, "six decimals"),
            (6, "account"),
            (7, "is on line 2 already"),
            (8, "id"),
            (9, "2 values"),
            (10, "used before"),
            (12, "is on line 11 already"),
            (13, "pi_"),
            (14, "paid"),
            (15, "no pack has 5 credits"),
            (16, "account"),
            (16, "credits"),
            (16, "id"),
        ] {
            let place = format!("old.csv:{line}: ");
            let told = errors.lines().any(|text| text.contains(&place) && text.contains(what));
            assert!(told, "{place}{what}:\n{errors}");
        }
        for line in [2, 11, 17] {
            assert!(!errors.contains(&format!("old.csv:{line}:")), "{errors}");
        }
        assert!(errors.contains("15 mistakes; nothing was imported"), "{errors}");
        assert!(!errors.to_lowercase().contains("json"), "{errors}");
        fails(at, &["account", "show", "good"], 1);
    }
    // A file that is not text, and a first line that names no columns.
    std::fs::write(at.join("old.csv"), b"account,credits,id\n\xff,5,old-1\nbob,5,old-2\n").unwrap();
    let errors = fails(at, &["import", "--csv", "old.csv"], 1);
    assert!(errors.contains("old.csv:2: ") && errors.contains("UTF-8"), "{errors}");
    for header in ["account;credits;id", "account,credits,id,credits", "alice,5,old-1", ""] {
        std::fs::write(at.join("old.csv"), format!("{header}\nalice,5,old-1,6\n")).unwrap();
        let errors = fails(at, &["import", "--csv", "old.csv"], 1);
        assert!(errors.contains("column"), "{header}: {errors}");
    }
    // As spreadsheets write the file: with a byte-order mark, and with lines that end in CR LF.
    std::fs::write(at.join("old.csv"), "\u{feff}account,credits,id\r\nbob,5,old-2\r\n").unwrap();
    ok(at, &["import", "--csv", "old.csv"]);
    assert!(ok(at, &["account", "show", "bob"]).contains("balance 5,"));
}

#[test]
fn a_dry_run_says_what_an_import_would_do_and_changes_nothing() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    std::fs::write(at.join("old.csv"), "account,credits,id\nalice,5,old-1\nbob,0.5,old-2\n")
        .unwrap();
    write_keys(&at.join("keys.csv"), 0, 3);
    let imports: [(&[&str], &str); 2] = [
        (&["import", "--csv", "old.csv"], "imported 2 rows with 5.5 credits; 0 were there already"),
        (&["key", "import", "keys.csv"], "imported 3 keys; 0 were there already"),
    ];
    for (arguments, told) in imports {
        let said = ok(at, &[arguments, &["--dry-run"]].concat());
        assert!(said.contains(&format!("would have {told}; nothing was changed")), "{said}");
        assert_eq!(ok(at, &["account", "list"]).lines().count(), 0);
    }
    for (arguments, told) in imports {
        assert!(ok(at, arguments).contains(told));
        let said = ok(at, &[arguments, &["--dry-run"]].concat());
        assert!(said.contains("would have imported 0 "), "{said}");
    }
    fails(at, &["import", "--from", "other.db", "--dry-run"], 2);
}

/// How many batches a ledger has committed.
fn commits(at: &Path) -> i64 {
    use sqlx::Connection as _;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(at.join("ledger.db"));
        let mut sql = sqlx::sqlite::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query_scalar("SELECT commits FROM ledger").fetch_one(&mut sql).await.unwrap()
    })
}

/// A file of accounts: each with as many credits as its number.
fn write_accounts(file: &Path, count: usize) {
    let rows: String = (0..count).map(|n| format!("customer-{n},{n},old-{n}\n")).collect();
    std::fs::write(file, format!("account,credits,id\n{rows}")).unwrap();
}

#[test]
fn a_whole_customer_base_of_accounts_is_imported_in_few_commits_and_may_be_again() {
    const ROWS: usize = 20_000;
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    ok(at, &["migrate"]);
    write_accounts(&at.join("old.csv"), ROWS);
    let before = commits(at);
    let said = ok(at, &["import", "--csv", "old.csv"]);
    assert!(said.contains("imported 20000 rows with 199990000 credits; 0 were"), "{said}");
    let made = commits(at) - before;
    assert!(made <= ROWS as i64 / 500, "{made} commits");
    let said = ok(at, &["import", "--csv", "old.csv"]);
    assert!(said.contains("imported 0 rows; 20000 were there already"), "{said}");
    assert!(ok(at, &["account", "show", "customer-19999"]).contains("balance 19999,"));
    assert!(ok(at, &["account", "show", "customer-0"]).contains("balance 0,"));
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_was() {
    const ROWS: usize = 12_000;
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    ok(at, &["migrate"]);
    write_accounts(&at.join("old.csv"), ROWS);
    let before = commits(at);
    let mut import = command(at, &["import", "--csv", "old.csv"], &[]).spawn().unwrap();
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while commits(at) < before + 3 {
        assert!(std::time::Instant::now() < limit, "the import does not begin");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    import.kill().unwrap();
    import.wait().unwrap();
    let there = ok(at, &["account", "list"]).lines().count();
    assert!(there > 0 && there < ROWS, "killed in the middle: {there}");
    let said = ok(at, &["import", "--csv", "old.csv"]);
    let (rest, there) = (ROWS - there, format!("; {there} were there already"));
    assert!(said.contains(&format!("imported {rest} rows")) && said.contains(&there), "{said}");
    let list = ok(at, &["account", "list"]);
    assert_eq!(list.lines().count(), ROWS);
    assert!(ok(at, &["account", "show", "customer-11999"]).contains("balance 11999,"));
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[test]
fn a_dry_run_without_a_ledger_creates_nothing() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    std::fs::write(at.join("old.csv"), "account,credits,id\nalice,5,old-1\nbob,0.5,old-2\n")
        .unwrap();
    write_keys(&at.join("keys.csv"), 0, 1);
    for (arguments, told) in [
        (&["import", "--csv", "old.csv", "--dry-run"][..], "imported 2 rows with 5.5 credits"),
        (&["key", "import", "keys.csv", "--dry-run"], "imported 1 key; 0 were there already"),
    ] {
        let said = ok(at, arguments);
        assert!(said.contains(told) && said.contains("nothing was changed"), "{said}");
        let mut files: Vec<_> =
            std::fs::read_dir(at).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["gateway.toml", "keys.csv", "old.csv"], "{arguments:?}");
    }
}

#[test]
fn an_import_warns_of_accounts_that_no_token_names() {
    let folder = folder();
    let at = folder.path();
    let issuer = |prefix: &str| {
        format!("[[auth.jwt]]\nalgorithms = [\"HS256\"]\nsecret = \"${{NOT_SET}}\"\n{prefix}\n")
    };
    let write = |issuers: &[&str]| {
        let issuers: String = issuers.iter().map(|prefix| issuer(prefix)).collect();
        let text = format!("[ledger]\npath = \"ledger.db\"\n{issuers}");
        std::fs::write(at.join("gateway.toml"), text).unwrap();
    };
    let rows = "account,credits,id\nacme:alice,5,old-1\nbob,1,old-2\ncarol,1,old-3\n";
    std::fs::write(at.join("old.csv"), rows).unwrap();
    let warned = |dry_run: &[&str]| {
        let arguments = [&["import", "--csv", "old.csv"], dry_run].concat();
        let output = command(at, &arguments, &[]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for issuers in [&[][..], &[""], &["account_prefix = \"acme:\"", ""]] {
        write(issuers);
        assert_eq!(warned(&["--dry-run"]), "", "{issuers:?}");
    }
    write(&["account_prefix = \"acme:\"", "account_prefix = \"other:\""]);
    for dry_run in [&["--dry-run"][..], &[]] {
        let said = warned(dry_run);
        assert!(said.contains("warning: 2 of 3 rows") && said.contains("`bob`"), "{said}");
        assert!(said.contains("old.csv:3") && said.contains("`acme:bob`"), "{said}");
    }
    std::fs::write(at.join("old.csv"), "account,credits,id\nother:bob,5,old-4\n").unwrap();
    assert_eq!(warned(&[]), "");
}

#[test]
fn an_import_without_a_file_names_both_options() {
    let folder = folder();
    let errors = fails(folder.path(), &["import"], 2);
    assert!(errors.contains("--csv <FILE>") && errors.contains("--from <FILE>"), "{errors}");
}
