//! Gateways with a lane for each exchange that runs at the same time. Each lane has upstreams of
//! its own, so the connections to an upstream belong to one exchange alone.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::bare;
use super::client::{self, Got, Side};
use super::exchange::{Exchange, Protocol};
use super::http2;
use super::upstream::{Arrival, Upstream};
use crate::support::h2::{TLS, write_certificate};
use crate::support::process::{Process, config_on_ports};
use crate::support::random::Random;

/// Farebox without TLS and with it, in processes of their own.
pub struct Gateways {
    plain: Process,
    tls: Process,
    certificate: CertificateDer<'static>,
    _folders: [TempDir; 2],
}

/// The ways of one exchange.
pub struct Lane {
    prefix: String,
    /// Behind the bare proxy, and behind Farebox.
    upstreams: [Upstream; 2],
    bare: SocketAddr,
    plain: SocketAddr,
    tls: SocketAddr,
    certificate: CertificateDer<'static>,
}

/// An exchange, as its client and its upstream saw it.
pub struct Outcome {
    pub calls: Vec<Call>,
    /// Mistakes in the requests that the upstream was sent, which no gateway may make.
    pub faults: Vec<String>,
}

/// A call, as its client and its upstream saw it.
#[derive(Clone, Debug)]
pub struct Call {
    pub arrivals: Vec<Arrival>,
    pub got: Got,
}

impl Gateways {
    pub async fn start(lanes: usize, random: &mut Random) -> (Self, Vec<Lane>) {
        let mut upstreams = Vec::new();
        let mut more = String::new();
        for number in 0..lanes {
            let wild = Upstream::start(Some(random.fork())).await;
            more += &format!(
                r#"
[[upstreams]]
name = "lane-{number}"
url = "http://{}"

[[routes]]
path = "/l{number}/ws"
upstream = "lane-{number}"
credits = 0
websocket = true

[[routes]]
path = "/l{number}/{{*rest}}"
upstream = "lane-{number}"
credits = 0
"#,
                wild.address
            );
            upstreams.push([Upstream::start(None).await, wild]);
        }
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let text = config_on_ports(upstreams[0][1].address, &more);
        let plain = Process::serve(folders[0].path(), &text);
        let certificate = write_certificate(folders[1].path());
        let text = config_on_ports(upstreams[0][1].address, &more);
        let text = text.replacen("[server]\n", &format!("[server]\n{TLS}\n"), 1);
        let tls = Process::serve(folders[1].path(), &text);
        let mut lanes = Vec::new();
        for (number, upstreams) in upstreams.into_iter().enumerate() {
            lanes.push(Lane {
                prefix: format!("/l{number}"),
                bare: bare::start(upstreams[0].address).await,
                upstreams,
                plain: plain.public,
                tls: tls.public,
                certificate: certificate.clone(),
            });
        }
        (Self { plain, tls, certificate, _folders: folders }, lanes)
    }

    /// Stops both gateways, which must not have panicked.
    pub fn stop(mut self) {
        for process in [&mut self.plain, &mut self.tls] {
            assert!(process.terminate().success());
            process.wait_for_logs();
            for log in [process.stdout(), process.stderr()] {
                assert!(!log.contains("panicked"), "{log}");
            }
        }
        drop(self.certificate);
    }
}

impl Lane {
    /// Runs an exchange through the bare proxy and through Farebox, and returns the outcomes in
    /// this order.
    pub async fn run(&self, exchange: &Exchange, wild: Random) -> [Outcome; 2] {
        let is_http2 = exchange.protocol == Protocol::Http2;
        let farebox = if is_http2 { self.tls } else { self.plain };
        let certificate = is_http2.then_some(&self.certificate);
        tokio::join!(
            self.one(exchange, 0, self.bare, None, None),
            self.one(exchange, 1, farebox, Some(wild), certificate)
        )
        .into()
    }

    async fn one(
        &self,
        exchange: &Exchange,
        which: usize,
        address: SocketAddr,
        wild: Option<Random>,
        certificate: Option<&CertificateDer<'static>>,
    ) -> Outcome {
        let upstream = &self.upstreams[which];
        upstream.expect(&exchange.calls).await;
        let mut side = Side { address, prefix: &self.prefix, upstream, wild };
        let all = match exchange.protocol {
            Protocol::Http1 => client::run(exchange, &mut side).await,
            Protocol::Http2 => http2::run(exchange, &mut side, certificate).await,
        };
        let calls = exchange.calls.iter().zip(all);
        let calls = calls.map(|(plan, got)| Call { arrivals: upstream.seen(&plan.nonce), got });
        Outcome { calls: calls.collect(), faults: upstream.faults() }
    }

    /// The address that Farebox must name as the upstream's host.
    pub fn authority(&self) -> String {
        self.upstreams[1].address.to_string()
    }
}
