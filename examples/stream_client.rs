//! The client of `make bench` for streams: how long after an event was sent it arrives.
//!
//! `stream_client ADDRESS PATH CONNECTIONS SECONDS` has so many connections, each of which asks for one stream
//! of `canned_upstream` after the other. The events are the times at which they were sent, by the clock of the
//! same machine. Prints `RESULT`, how many events came, and in microseconds the 50th and the 99th
//! percentile of the delay of first events, then of all others. The token is the variable `BENCH_TOKEN`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

/// The end of a chunked answer.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// The delays of one connection's events, in microseconds.
#[derive(Default)]
struct Delays {
    first: Vec<u64>,
    others: Vec<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, connections, seconds] = &arguments[..] else {
        return Err("usage: stream_client ADDRESS PATH CONNECTIONS SECONDS".into());
    };
    let token = std::env::var("BENCH_TOKEN").unwrap_or_default();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut open = JoinSet::new();
    for _ in 0..connections.parse::<usize>()? {
        open.spawn(ask(address.clone(), request.clone(), until));
    }
    let mut all = Delays::default();
    while let Some(delays) = open.join_next().await {
        let delays = delays??;
        all.first.extend(delays.first);
        all.others.extend(delays.others);
    }
    let count = all.first.len() + all.others.len();
    let [first, others] = [all.first, all.others].map(percentiles);
    println!("RESULT {count} {} {} {} {}", first.0, first.1, others.0, others.1);
    Ok(())
}

/// One connection: a stream after the other, until the time is up.
async fn ask(address: String, request: String, until: Instant) -> Result<Delays, Failure> {
    let mut delays = Delays::default();
    let mut stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let (mut unread, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while Instant::now() < until {
        stream.write_all(request.as_bytes()).await?;
        let mut is_first = true;
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(format!("closed after {:?}", String::from_utf8_lossy(&unread)).into());
            }
            unread.extend_from_slice(&buffer[..read]);
            let now = micros()?;
            while let Some((sent, end)) = event(&unread)? {
                let delay = now.saturating_sub(sent);
                let kind = if is_first { &mut delays.first } else { &mut delays.others };
                kind.push(delay);
                is_first = false;
                unread.drain(..end);
            }
            if unread.ends_with(END) {
                unread.clear();
                break;
            }
        }
        if is_first {
            return Err("an answer had no event: is the token right, and is there credit?".into());
        }
    }
    Ok(delays)
}

/// The first event among these bytes: when it was sent, and where it ends.
fn event(bytes: &[u8]) -> Result<Option<(u64, usize)>, Failure> {
    const DATA: &[u8] = b"data: ";
    let Some(at) = bytes.windows(DATA.len()).position(|window| window == DATA) else {
        return Ok(None);
    };
    let from = at + DATA.len();
    let Some(length) = bytes[from..].windows(2).position(|window| window == b"\n\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[from..from + length])?;
    Ok(Some((text.parse()?, from + length + 2)))
}

fn micros() -> Result<u64, Failure> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

fn percentiles(mut values: Vec<u64>) -> (u64, u64) {
    values.sort_unstable();
    let at = |percent: usize| values.get(values.len() * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
