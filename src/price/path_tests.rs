//! Tests of the canonical path, mostly with paths that no honest client sends.

use percent_encoding::percent_decode;
use proptest::prelude::*;

use super::*;

fn canonical(raw: impl AsRef<[u8]>) -> Result<String, PathRefusal> {
    CanonicalPath::parse(raw.as_ref()).map(|path| path.as_str().to_owned())
}

#[test]
fn a_plain_path_is_left_as_it_is() {
    for path in ["/", "/a", "/a/", "/A/b.c/~d", "/v1/m:generate", "/a/...", "/.well-known", "/a@b"]
    {
        assert_eq!(canonical(path).as_deref(), Ok(path));
    }
}

#[test]
fn every_spelling_of_a_path_becomes_one() {
    for (raw, one) in [
        ("/%61%2d%2E%5f%7e", "/a-._~"),
        ("/m%3Agenerate", "/m:generate"),
        ("/%21%24%26%27%28%29%2a%2b%2c%3d%40", "/!$&'()*+,=@"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/{x}|^`\"<>", "/%7Bx%7D%7C%5E%60%22%3C%3E"),
        ("/100%25", "/100%25"),
        ("/100%25/zz", "/100%25/zz"),
    ] {
        assert_eq!(canonical(raw).as_deref(), Ok(one), "{raw}");
    }
}

#[test]
fn case_and_a_trailing_slash_are_significant() {
    assert_ne!(canonical("/a"), canonical("/A"));
    assert_ne!(canonical("/a"), canonical("/a/"));
}

#[test]
fn an_ambiguous_path_is_refused_with_its_reason() {
    use PathRefusal::*;
    let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
    let long_once_encoded = format!("/{}", "\u{e9}".repeat(MAX_PATH_BYTES / 4));
    let cases: &[(&[u8], PathRefusal)] = &[
        (b"", NotRooted),
        (b"*", NotRooted),
        (b"a/b", NotRooted),
        (b"%2fa", NotRooted),
        (b"http://other.example/a", NotRooted),
        (b"//", EmptySegment),
        (b"//a", EmptySegment),
        (b"/a//b", EmptySegment),
        (b"/a//", EmptySegment),
        (b"/a/./b", DotSegment),
        (b"/a/..", DotSegment),
        (b"/a/%2e%2E/b", DotSegment),
        (b"/a/.%2e", DotSegment),
        (b"/%2e", DotSegment),
        (b"/a%2fb", EncodedSlash),
        (b"/a%2Fb", EncodedSlash),
        (b"/a\\b", Backslash),
        (b"/a%5cb", Backslash),
        (b"/a\0", ControlCharacter),
        (b"/a%00", ControlCharacter),
        (b"/a%0d%0ab", ControlCharacter),
        (b"/a\tb", ControlCharacter),
        (b"/a%7f", ControlCharacter),
        (b"/a%C2%85", ControlCharacter),
        (b"/a b", Space),
        (b"/a;v=1", PathParameter),
        (b"/a%3bv=1", PathParameter),
        (b"/a#b", Delimiter),
        (b"/a%23b", Delimiter),
        (b"/a?b", Delimiter),
        (b"/a%3Fb", Delimiter),
        (b"/a%", BrokenEscape),
        (b"/a%2", BrokenEscape),
        (b"/a%zz", BrokenEscape),
        (b"/a%+1", BrokenEscape),
        (b"/a%252e", DoubleEncoding),
        (b"/a%25%32%65", DoubleEncoding),
        (b"/a%25%32e", DoubleEncoding),
        (b"/a\xff", NotUtf8),
        (b"/a%ff", NotUtf8),
        (b"/a%c0%af", NotUtf8),
        (b"/a%ed%a0%80", NotUtf8),
        (long.as_bytes(), TooLong),
        (long_once_encoded.as_bytes(), TooLong),
    ];
    for (raw, why) in cases {
        assert_eq!(canonical(raw), Err(*why), "{}", raw.escape_ascii());
    }
}

/// Hostile paths, made of pieces that reach every branch. Paths of arbitrary bytes would nearly all
/// be refused for the same few reasons.
fn hostile_path() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "/", "/", "/", "a", "A", "0", "2", "e", "f", ".", "..", "%", "%2", "%2e", "%2E", "%2f",
        "%25", "%5c", "%61", "%41", "%32", "%65", "%3a", ":", "%3B", "%20", "%c3", "%a9", "\u{e9}",
        "{", "%7b", "+", "%2b", "~", "%00", "\\", ";", "?", "#", " ",
    ];
    let piece = prop_oneof![
        40 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => any::<u8>().prop_map(|byte| format!("%{byte:02x}").into_bytes()),
    ];
    proptest::collection::vec(piece, 0..12)
        .prop_map(|pieces| [b"/".as_slice(), &pieces.concat()].concat())
}

/// One byte as it is, or in one of its percent-encoded spellings; `way` chooses.
fn spell(byte: u8, way: u8) -> Vec<u8> {
    match way {
        _ if byte == b'/' => vec![byte],
        0 => vec![byte],
        1 => format!("%{byte:02x}").into_bytes(),
        _ => format!("%{byte:02X}").into_bytes(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn fuzz_arbitrary_bytes_never_panic(raw: Vec<u8>) {
        let _ = CanonicalPath::parse(&raw);
        let _ = CanonicalPath::parse(&[b"/", raw.as_slice()].concat());
    }

    #[test]
    fn fuzz_the_canonical_path_parses_to_itself(raw in hostile_path()) {
        if let Ok(once) = canonical(&raw) {
            prop_assert_eq!(canonical(&once), Ok(once));
        }
    }

    #[test]
    fn fuzz_the_upstream_reads_the_path_of_the_client(raw in hostile_path()) {
        if let Ok(path) = canonical(&raw) {
            let sent: Vec<u8> = percent_decode(path.as_bytes()).collect();
            let meant: Vec<u8> = percent_decode(&raw).collect();
            prop_assert_eq!(sent, meant);
        }
    }

    #[test]
    fn fuzz_an_accepted_path_is_read_alike_by_all_servers(raw in hostile_path()) {
        if let Ok(path) = canonical(&raw) {
            let decoded = percent_decode_str(&path).decode_utf8().unwrap();
            prop_assert!(!decoded.contains("//"));
            prop_assert!(!decoded.contains(['\\', ';', '?', '#']));
            prop_assert!(!decoded.contains(char::is_control));
            prop_assert!(decoded.split('/').all(|segment| segment != "." && segment != ".."));
            // The same holds for an upstream that decodes twice.
            let twice: Vec<u8> = percent_decode_str(&decoded).collect();
            prop_assert_eq!(twice, decoded.as_bytes());
        }
    }

    #[test]
    fn two_spellings_of_one_path_get_one_price(
        bytes in proptest::collection::vec(
            (prop_oneof![4 => 0x20..0x7fu8, 1 => any::<u8>()], 0..3u8, 0..3u8), 0..24),
    ) {
        let (one, other): (Vec<_>, Vec<_>) = bytes
            .iter()
            .map(|&(byte, way, other_way)| (spell(byte, way), spell(byte, other_way)))
            .unzip();
        let one = canonical([b"/", one.concat().as_slice()].concat());
        let other = canonical([b"/", other.concat().as_slice()].concat());
        if let (Ok(one), Ok(other)) = (one, other) {
            prop_assert_eq!(one, other);
        }
    }
}
