//! The certificate of the public listener, whose files change while the gateway runs.

use std::time::{Duration, Instant};

use crate::process::{Process, config_on_ports};
use crate::support::eventually;
use crate::support::h2::{TLS, write_certificate};

async fn metric(gateway: &Process, name: &str) -> String {
    let metrics = gateway.client.get(format!("http://{}/metrics", gateway.admin)).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[tokio::test]
async fn broken_certificate_files_are_logged_once_and_shown_until_they_are_mended() {
    const UNUSABLE: &str = "farebox_tls_files_unusable";
    /// As long as several looks at the files take.
    const LOOKS: Duration = Duration::from_secs(7);
    let folder = tempfile::tempdir().unwrap();
    write_certificate(folder.path());
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    let text = text.replace("[server]", &format!("[server]\n{TLS}"));
    let gateway = Process::serve(folder.path(), &text);
    assert!(metric(&gateway, UNUSABLE).await.ends_with(" 0"));
    let warned = || gateway.stderr().matches("cannot be used").count();
    for (told, nonsense) in [(1, "nonsense"), (2, "other nonsense")] {
        std::fs::write(folder.path().join("key.pem"), nonsense).unwrap();
        assert!(eventually(async || warned() == told).await, "{}", gateway.stderr());
        assert!(metric(&gateway, UNUSABLE).await.ends_with(" 1"));
    }
    let began = Instant::now();
    while began.elapsed() < LOOKS {
        assert_eq!(warned(), 2, "{}", gateway.stderr());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    write_certificate(folder.path());
    let is_mended = async || metric(&gateway, UNUSABLE).await.ends_with(" 0");
    assert!(eventually(is_mended).await, "{}", gateway.stderr());
    assert!(gateway.stderr().contains("took up the new TLS certificate"), "{}", gateway.stderr());
}
