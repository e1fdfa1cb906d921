//! The client of an exchange over HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use super::client::{Answered, Got, Side};
use super::exchange::{End, Exchange, Plan, Then, latin1, parts};
use crate::support::h2::{HOST, connect};
use crate::support::message::{Framing, Head, Stop};
use crate::support::random::Random;
use crate::support::token;

const PATIENCE: Duration = Duration::from_secs(5);

/// How long the client waits to see that nothing of a request arrives at the upstream.
const NOTHING: Duration = Duration::from_millis(60);

/// Runs an exchange, over TLS if there is a certificate.
pub async fn run(
    exchange: &Exchange,
    side: &mut Side<'_>,
    certificate: Option<&CertificateDer<'static>>,
) -> Vec<Got> {
    let (client, connection) = match certificate {
        Some(certificate) => {
            let stream = connect(side.address, certificate, &["h2"]).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            (client, tokio::spawn(async { drop(connection.await) }))
        }
        None => {
            let stream = TcpStream::connect(side.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            (client, tokio::spawn(async { drop(connection.await) }))
        }
    };
    let mut all = Vec::new();
    if exchange.pipelined && side.wild.is_some() {
        let calls: Vec<_> = exchange
            .calls
            .iter()
            .map(|plan| {
                let wild = side.wild.as_mut().map(Random::fork);
                let prefix = side.prefix.to_owned();
                tokio::spawn(call(client.clone(), prefix, plan.clone(), wild))
            })
            .collect();
        for call in calls {
            all.push(call.await.unwrap());
        }
    } else {
        for plan in &exchange.calls {
            let wild = side.wild.as_mut().map(Random::fork);
            all.push(call(client.clone(), side.prefix.to_owned(), plan.clone(), wild).await);
            if plan.answer.then == Then::ClosesUnasked || plan.answer.is_early {
                side.upstream.done(&plan.nonce, NOTHING).await;
            }
        }
    }
    for plan in &exchange.calls {
        side.upstream.done(&plan.nonce, NOTHING).await;
    }
    connection.abort();
    all
}

async fn call(client: SendRequest<Bytes>, prefix: String, plan: Plan, wild: Option<Random>) -> Got {
    let mut got = Got::default();
    let exchanged = exchange(client, &prefix, &plan, wild, &mut got);
    match tokio::time::timeout(PATIENCE, exchanged).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => got.stop = Some(Stop::Cut),
        Err(_) => got.stop = Some(Stop::Silent),
    }
    got
}

fn head(prefix: &str, plan: &Plan) -> Request<()> {
    let request = &plan.request;
    let uri = format!("https://{HOST}{prefix}{}", request.target);
    let mut head = Request::builder()
        .method(request.method)
        .uri(uri)
        .header("authorization", format!("Bearer {}", token("alice")))
        .header("x-nonce", &plan.nonce)
        .body(())
        .unwrap();
    for (name, value) in &request.fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        head.headers_mut().append(name, HeaderValue::from_bytes(&latin1(value)).unwrap());
    }
    if let Framing::Length(length) = request.framing {
        head.headers_mut().insert("content-length", length.into());
    }
    head
}

async fn exchange(
    client: SendRequest<Bytes>,
    prefix: &str,
    plan: &Plan,
    mut wild: Option<Random>,
    got: &mut Got,
) -> Result<(), h2::Error> {
    let request = &plan.request;
    let mut client = client.ready().await?;
    let is_whole = request.framing == Framing::None;
    let (answer, mut stream) = client.send_request(head(prefix, plan), is_whole)?;
    if !is_whole {
        let body = match request.end {
            End::LeavesInRequest(sent) => &request.body[..sent],
            _ => &request.body[..],
        };
        for part in parts(body, &request.pieces) {
            if let Some(random) = &mut wild
                && random.below(5) == 0
            {
                // An empty part does not end the body.
                stream.send_data(Bytes::new(), false)?;
                tokio::task::yield_now().await;
            }
            stream.send_data(Bytes::copy_from_slice(part), false)?;
        }
        match request.end {
            End::LeavesInRequest(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.send_reset(h2::Reason::CANCEL);
                return Ok(());
            }
            _ if request.has_trailers => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from_static("1"));
                stream.send_trailers(trailers)?;
            }
            _ => stream.send_data(Bytes::new(), true)?,
        }
    }
    let answer = answer.await?;
    let status = answer.status().as_u16();
    let fields = answer.headers().iter().map(|(name, value)| {
        let value = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        (name.as_str().to_owned(), value)
    });
    let head = Head { line: format!("HTTP/2 {status} "), fields: fields.collect() };
    let mut stream = answer.into_body();
    let mut body = Vec::new();
    let end = loop {
        if matches!(request.end, End::LeavesInAnswer(bytes) if body.len() >= bytes) {
            body.clear();
            break Ok(());
        }
        match stream.data().await {
            Some(Ok(data)) => {
                stream.flow_control().release_capacity(data.len())?;
                body.extend_from_slice(&data);
            }
            // The answer is whole, and the rest of the request is not wanted (RFC 9113, 8.1).
            Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => break Ok(()),
            Some(Err(_)) => break Err(Stop::Cut),
            None => break Ok(()),
        }
    };
    if matches!(request.end, End::LeavesInAnswer(_)) {
        body.clear();
    }
    got.answer = Some(Answered { head, status, framing: Framing::None, body, end });
    Ok(())
}
