//! The files that are installed beside the program: its version, manual pages, completions, the .deb and its unit.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use farebox::cli::Cli;

use crate::process::{fails, ok};

#[path = "../../build/commit.rs"]
mod commit;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a program; it must succeed.
#[track_caller]
fn runs(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}{errors}");
    said
}

fn is_here(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn the_version_has_the_commit_or_says_that_it_is_a_development_build() {
    let folder = tempfile::tempdir().unwrap();
    let said = ok(folder.path(), &["--version"]);
    let rest = said.strip_prefix(concat!("farebox ", env!("CARGO_PKG_VERSION"), " (")).unwrap();
    let word = rest.strip_suffix(")\n").unwrap();
    let is_commit = word.len() == 10 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_commit || word == "development", "{said}");
}

#[test]
fn the_commit_is_found_in_a_clone_a_work_tree_an_archive_and_a_package_without_git() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let git = |arguments: &[&str]| {
        let name = [
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.org",
            "-c",
            "commit.gpgsign=false",
        ];
        runs("git", &[&name, arguments].concat(), at)
    };
    let head = || git(&["rev-parse", "HEAD"]).trim()[..10].to_owned();
    let found = |folder: &Path| commit::find(folder, None).commit;
    assert_eq!(found(at), None, "a folder of sources alone");

    git(&["init", "--quiet", "--initial-branch=main"]);
    assert_eq!(found(at), None, "no commit yet");
    std::fs::create_dir(at.join("build")).unwrap();
    for file in [".gitattributes", "build/commit.txt"] {
        std::fs::copy(Path::new(ROOT).join(file), at.join(file)).unwrap();
    }
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message=one"]);
    let first = head();
    assert_eq!(found(at), Some(first.clone()), "a branch");
    git(&["pack-refs", "--all"]);
    assert_eq!(found(at), Some(first.clone()), "a packed branch");
    git(&["commit", "--quiet", "--allow-empty", "--message=two"]);
    let second = head();
    assert_eq!(found(at), Some(second.clone()), "a branch that moved on after it was packed");
    let read = commit::find(at, None).read;
    assert!(
        read.iter().any(|file| file.ends_with("logs/HEAD")),
        "built again after a commit: {read:?}"
    );
    git(&["checkout", "--quiet", "--detach", "HEAD^"]);
    assert_eq!(found(at), Some(first.clone()), "no branch");

    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path().join("tree");
    git(&["worktree", "add", "--quiet", tree.to_str().unwrap(), "main"]);
    assert_eq!(found(&tree), Some(second.clone()), "a work tree beside the clone");

    let archive = tempfile::tempdir().unwrap();
    git(&["archive", "--output", archive.path().join("a.tar").to_str().unwrap(), "main"]);
    runs("tar", &["-xf", "a.tar"], archive.path());
    assert_eq!(found(archive.path()), Some(second), "an archive");

    let package = tempfile::tempdir().unwrap();
    let json =
        r#"{ "git": { "sha1": "0123456789abcdef0123456789abcdef01234567" }, "path_in_vcs": "" }"#;
    std::fs::write(package.path().join(".cargo_vcs_info.json"), json).unwrap();
    assert_eq!(found(package.path()).as_deref(), Some("0123456789"), "a package of cargo's");
    let named = commit::find(at, Some("ABCDEF0123456789")).commit;
    assert_eq!(named.as_deref(), Some("abcdef0123"), "the builder says it");
    assert_eq!(commit::find(at, Some("")).commit, Some(first), "the builder says nothing");
}

#[test]
fn every_shell_completes_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(folder.path(), &["completions", shell]);
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
        }
        if is_here(shell) && ["bash", "zsh", "fish"].contains(&shell) {
            std::fs::write(folder.path().join("script"), script).unwrap();
            runs(shell, &["-n", "script"], folder.path());
        }
    }
    fails(folder.path(), &["completions", "cmd"], 2);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let page = ok(at, &["man"]);
    assert!(page.contains(".TH farebox 1"), "{page}");
    ok(at, &["man", "--dir", "pages/of/it"]);
    let pages = at.join("pages/of/it");
    for command in Cli::command().get_subcommands() {
        let page = pages.join(format!("farebox-{}.1", command.get_name()));
        assert!(page.is_file(), "{}", page.display());
        if is_here("groff") {
            let plain = ["-man", "-Tascii", "-P-cbou", page.to_str().unwrap()];
            let shown = runs("groff", &plain, at);
            assert!(shown.contains("--config"), "{shown}");
        }
    }
    assert_eq!(std::fs::read_to_string(pages.join("farebox.1")).unwrap(), page);
    assert!(pages.join("farebox-packs-sync.1").is_file());
    assert!(!pages.join("farebox-help.1").exists() && !pages.join("farebox-packs-help.1").exists());
}

/// The packages, made of the program under test.
fn packed() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let script = Path::new(ROOT).join("scripts/dist.sh");
    let packed = Command::new(script)
        .env("FAREBOX_BIN", env!("CARGO_BIN_EXE_farebox"))
        .env("FAREBOX_DIST", &out)
        // This program has not been optimized and is large, so it is compressed quickly.
        .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
        .env("DPKG_DEB_COMPRESSOR_LEVEL", "1")
        .output()
        .unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    (folder, out)
}

fn ending(folder: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files = files.filter(|file| file.to_str().unwrap().ends_with(ending));
    let found = files.next().unwrap_or_else(|| panic!("no {ending} in {}", folder.display()));
    assert_eq!(files.next(), None);
    found
}

#[test]
fn the_packages_hold_a_program_that_runs_its_pages_its_completions_and_a_sound_unit() {
    let (folder, out) = packed();
    let at = folder.path();
    let sums = runs("sha256sum", &["--check", "--strict", "SHA256SUMS"], &out);
    assert_eq!(sums.lines().filter(|line| line.ends_with(": OK")).count(), 3, "{sums}");

    let deb = ending(&out, ".deb");
    let deb = deb.to_str().unwrap();
    runs("dpkg-deb", &["--extract", deb, "root"], at);
    runs("dpkg-deb", &["--control", deb, "control"], at);
    let root = at.join("root");
    let farebox = root.join("usr/bin/farebox");
    let version = runs(farebox.to_str().unwrap(), &["--version"], at);
    assert_eq!(version, ok(at, &["--version"]));
    let sections = runs("readelf", &["--section-headers", "--wide", farebox.to_str().unwrap()], at);
    assert!(
        !sections.contains(".symtab") && !sections.contains(".debug_info"),
        "stripped: {sections}"
    );
    for file in [
        "usr/share/man/man1/farebox.1.gz",
        "usr/share/man/man1/farebox-serve.1.gz",
        "usr/share/bash-completion/completions/farebox",
        "usr/share/zsh/vendor-completions/_farebox",
        "usr/share/fish/vendor_completions.d/farebox.fish",
        "usr/share/doc/farebox/copyright",
        "usr/share/doc/farebox/gateway.toml",
    ] {
        assert!(root.join(file).metadata().is_ok_and(|file| file.len() > 100), "{file}");
    }
    let control = std::fs::read_to_string(at.join("control/control")).unwrap();
    assert!(control.contains(concat!("\nVersion: ", env!("CARGO_PKG_VERSION"), "\n")), "{control}");
    assert!(control.contains("libc6 (>= "), "{control}");
    for script in ["postinst", "prerm"] {
        runs("sh", &["-n", script], &at.join("control"));
    }

    let unit = root.join("lib/systemd/system/farebox.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/farebox serve "), "{text}");
    if is_here("systemd-analyze") {
        // systemd looks for the program at the path that the unit names.
        let text = text.replace("/usr/bin/farebox", farebox.to_str().unwrap());
        std::fs::write(at.join("farebox.service"), text).unwrap();
        runs("systemd-analyze", &["verify", "--man=no", "./farebox.service"], at);
    }

    let archive = ending(&out, ".tar.gz");
    runs("tar", &["-xzf", archive.to_str().unwrap()], at);
    let name = archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
    let unpacked = at.join(name);
    let farebox = unpacked.join("farebox");
    assert_eq!(runs(farebox.to_str().unwrap(), &["--version"], at), version);
    for file in ["man/farebox.1", "completions/farebox.bash", "gateway.toml", "LICENSE"] {
        assert!(unpacked.join(file).is_file(), "{file}");
    }
}
