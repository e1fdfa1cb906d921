//! The client of `make bench` for streams: how long after an event was sent it arrives, or how many arrive.
//!
//! `stream_client ADDRESS PATH CONNECTIONS SECONDS [SPREAD]` has so many connections, each of which asks for one stream
//! of `canned_upstream` after the other; they begin within SPREAD milliseconds (0). The events say the times at which
//! they were sent, by the clock of the same machine. Prints `RESULT`, how many such events came, and in microseconds the
//! 50th and the 99th percentile of the delay of first events, of all others, and of the time from a request to the first
//! byte of its answer.
//!
//! `stream_client ADDRESS PATH CONNECTIONS SECONDS count` asks for streams whose events have the byte `~` once each, and only
//! counts these bytes, so that it needs little of its core. Prints `RESULT`, the events, the streams, and the
//! microseconds from the first request to the end of the last answer. The events of every stream must be as many.
//!
//! The token is the variable `BENCH_TOKEN`, the file with the request's body `BENCH_BODY_FILE`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

/// The end of a chunked answer.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// A byte that is once in each event that is counted.
const MARK: u8 = b'~';

/// The delays of one connection's events, in microseconds.
#[derive(Default)]
struct Delays {
    first: Vec<u64>,
    others: Vec<u64>,
    heads: Vec<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, connections, seconds, spread @ ..] = &arguments[..] else {
        return Err("usage: stream_client ADDRESS PATH CONNECTIONS SECONDS [SPREAD|count]".into());
    };
    let counts = spread.first().is_some_and(|spread| spread == "count");
    let spread = spread.first().filter(|_| !counts);
    let spread = spread.map_or(Ok(0), |spread| spread.parse::<u32>())?;
    let body = match std::env::var_os("BENCH_BODY_FILE") {
        Some(file) => std::fs::read_to_string(file)?,
        None => "{}".to_owned(),
    };
    let token = std::env::var("BENCH_TOKEN").unwrap_or_default();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let connections: u32 = connections.parse()?;
    if counts {
        return count_all(address, &request, connections, until).await;
    }
    let mut open = JoinSet::new();
    for number in 0..connections {
        let wait = Duration::from_millis(spread.into()) * number / connections;
        open.spawn(ask(address.clone(), request.clone(), wait, until));
    }
    let mut all = Delays::default();
    while let Some(delays) = open.join_next().await {
        let delays = delays??;
        all.first.extend(delays.first);
        all.others.extend(delays.others);
        all.heads.extend(delays.heads);
    }
    let count = all.first.len() + all.others.len();
    let [first, others, heads] = [all.first, all.others, all.heads].map(percentiles);
    println!(
        "RESULT {count} {} {} {} {} {} {}",
        first.0, first.1, others.0, others.1, heads.0, heads.1
    );
    Ok(())
}

/// Counts the events of all connections until the time is up, and prints their number.
async fn count_all(
    address: &str,
    request: &str,
    connections: u32,
    until: Instant,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut open = JoinSet::new();
    for _ in 0..connections {
        open.spawn(count(address.to_owned(), request.to_owned(), until));
    }
    let mut of_streams = Vec::new();
    while let Some(counted) = open.join_next().await {
        of_streams.extend(counted??);
    }
    let elapsed = begun.elapsed().as_micros();
    let (first, streams) = (of_streams.first().copied().unwrap_or(0), of_streams.len());
    if first == 0 || of_streams.iter().any(|count| *count != first) {
        return Err("a stream lacks events".into());
    }
    println!("RESULT {} {streams} {elapsed}", first * streams);
    Ok(())
}

/// One connection that counts: how many events each of its streams had.
async fn count(address: String, request: String, until: Instant) -> Result<Vec<usize>, Failure> {
    let mut stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let (mut buffer, mut counts) = (vec![0; 256 * 1024], Vec::new());
    while Instant::now() < until {
        stream.write_all(request.as_bytes()).await?;
        let (mut count, mut end) = (0, Vec::new());
        while !end.ends_with(END) {
            let read = stream.read(&mut buffer).await?;
            let new = &buffer[..read];
            if read == 0 || end.is_empty() && !new.starts_with(b"HTTP/1.1 200 ") {
                return Err(format!("no stream: {:?}", String::from_utf8_lossy(new)).into());
            }
            count += memchr::memchr_iter(MARK, new).count();
            end.extend_from_slice(&new[read.saturating_sub(END.len())..]);
            end.drain(..end.len().saturating_sub(END.len()));
        }
        counts.push(count);
    }
    Ok(counts)
}

/// One connection: a stream after the other, until the time is up.
async fn ask(
    address: String,
    request: String,
    wait: Duration,
    until: Instant,
) -> Result<Delays, Failure> {
    let mut delays = Delays::default();
    tokio::time::sleep(wait).await;
    let mut stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let (mut unread, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while Instant::now() < until {
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let (mut is_first, mut has_head) = (true, false);
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(format!("closed after {:?}", String::from_utf8_lossy(&unread)).into());
            }
            if !std::mem::replace(&mut has_head, true) {
                delays.heads.push(u64::try_from(asked.elapsed().as_micros())?);
            }
            unread.extend_from_slice(&buffer[..read]);
            let now = micros()?;
            while let Some((sent, end)) = event(&unread)? {
                if let Some(sent) = sent {
                    let delay = now.saturating_sub(sent);
                    let kind = if is_first { &mut delays.first } else { &mut delays.others };
                    kind.push(delay);
                    is_first = false;
                }
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

/// The first event among these bytes: when it was sent, where it says so, and where it ends.
fn event(bytes: &[u8]) -> Result<Option<(Option<u64>, usize)>, Failure> {
    const DATA: &[u8] = b"data: ";
    let Some(at) = bytes.windows(DATA.len()).position(|window| window == DATA) else {
        return Ok(None);
    };
    let from = at + DATA.len();
    let Some(length) = bytes[from..].windows(2).position(|window| window == b"\n\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[from..from + length])?;
    let content = text.split_once("\"content\":\"").map(|(_, content)| content);
    let digits = content.unwrap_or(text).bytes().take_while(u8::is_ascii_digit).count();
    let sent = match content.unwrap_or(text).get(..digits) {
        None | Some("") => None,
        Some(digits) => Some(digits.parse()?),
    };
    Ok(Some((sent, from + length + 2)))
}

fn micros() -> Result<u64, Failure> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

fn percentiles(mut values: Vec<u64>) -> (u64, u64) {
    values.sort_unstable();
    let at = |percent: usize| values.get(values.len() * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
