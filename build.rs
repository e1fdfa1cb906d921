//! Tells `farebox --version` which commit it was built from.

#[path = "build/commit.rs"]
mod commit;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed=FAREBOX_COMMIT");
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let named = std::env::var("FAREBOX_COMMIT").ok();
    // Whatever depends on the commit is compiled again after each one, so only builds that are shipped do.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = if is_release || named.is_some() {
        let found = commit::find(Path::new(&folder), named.as_deref());
        for file in &found.read {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        match found.commit {
            Some(commit) => format!("{version} ({commit})"),
            None => version,
        }
    } else {
        format!("{version} (development)")
    };
    println!("cargo::rustc-env=FAREBOX_VERSION={version}");
}
