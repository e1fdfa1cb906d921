//! The scanner accepts what serde_json accepts, and finds the same tokens wherever a document is
//! cut.

use proptest::prelude::*;

use super::{Failure, Scanner, Sink, Span, Token, unescape};

/// The tokens of a document, written out.
#[derive(Default)]
struct Written(Vec<String>);

impl Sink for Written {
    type Stop = ();
    fn token(&mut self, token: Token<'_>, span: Span) -> Result<(), ()> {
        let text = match token {
            Token::Name(text) | Token::Text(text) => {
                let mut buffer = None;
                let short = text.short(&mut buffer).map(|bytes| bytes.to_vec());
                format!("{:?} {} {}", short, text.len, text.has_lone_surrogate)
            }
            Token::Number(number) => {
                let number = number.filter(|raw| raw.len() <= 256);
                format!("{:?}", number.map(|raw| String::from_utf8_lossy(raw).into_owned()))
            }
            other => format!("{other:?}"),
        };
        self.0.push(format!("{} {text} {span:?}", matches!(token, Token::Name(_))));
        Ok(())
    }
}

fn scan(parts: &[&[u8]]) -> Result<Vec<String>, String> {
    let (mut scanner, mut written) = (Scanner::new(64), Written::default());
    for part in parts {
        scanner.feed(part, &mut written).map_err(|failure| format!("{failure:?}"))?;
    }
    if scanner.is_done() { Ok(written.0) } else { Err("incomplete".into()) }
}

const DOCUMENTS: [&str; 10] = [
    r#"{"a":1,"b":[true,false,null,-0.5e+10,0],"c":{"d":"e"},"":[[],{}]}"#,
    r#" [ "\u00e9\ud83d\ude00\n\/\\\"" , "é😀" , 12 ] "#,
    "{\"a\" : \"x\" ,\r\n\t\"b\":0.25}",
    r#"{"lone":"\ud83d","lone2":"\ude00\ud83dx"}"#,
    "[1e5,1E-5,1.5,-1,1234567890123456789012345678901234567890]",
    "{\"long\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\naaaaaaaaaaaaaaaaaaaaaaaa\\u0041\"}",
    "[]",
    "{}",
    r#"[[[[[[["deep"]]]]]]]"#,
    r#"{"a":{"a":{"a":"\u0000"}}}"#,
];

const BROKEN: [&str; 34] = [
    "",
    "{",
    "[1,]",
    "[,1]",
    "{,}",
    r#"{"a"}"#,
    r#"{"a":}"#,
    r#"{"a":1,}"#,
    r#"{a:1}"#,
    "{'a':1}",
    "[01]",
    "[+1]",
    "[.5]",
    "[1.]",
    "[1e]",
    "[-]",
    "[NaN]",
    "[Infinity]",
    "[0x1]",
    "[1_0]",
    "[tru]",
    "[True]",
    "[nulll]",
    "[1 2]",
    "[1]]",
    "{}{}",
    "[1}",
    r#"{"a":1]"#,
    "[\"a\tb\"]",
    r#"["\x41"]"#,
    r#"["\u00g0"]"#,
    "[1] // no",
    "\u{feff}{}",
    "[\"\u{7f}\" \u{a0}]",
];

#[test]
fn what_is_no_json_is_refused() {
    for broken in BROKEN {
        assert!(scan(&[broken.as_bytes()]).is_err(), "{broken}");
        assert!(serde_json::from_str::<serde_json::Value>(broken).is_err(), "{broken}");
    }
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(scan(&[nested(64).as_bytes()]).is_ok());
    assert_eq!(scan(&[nested(65).as_bytes()]), Err(format!("{:?}", Failure::<()>::TooDeep)));
}

#[test]
fn a_document_has_the_same_tokens_wherever_it_is_cut() {
    let long = format!(r#"{{"{0}":"{0}","n":{1}}}"#, "\\u0041x".repeat(60), "1".repeat(300));
    for document in DOCUMENTS.into_iter().chain([long.as_str()]) {
        let whole = scan(&[document.as_bytes()]);
        assert!(whole.is_ok(), "{document}: {whole:?}");
        for cut in 0..=document.len() {
            let (head, tail) = document.as_bytes().split_at(cut);
            assert_eq!(scan(&[head, tail]), whole, "{document} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = document.as_bytes().chunks(1).collect();
        assert_eq!(scan(&bytes), whole, "{document} byte by byte");
    }
}

#[test]
fn a_control_character_is_found_wherever_it_stands_in_a_string() {
    for at in [0, 1, 23, 24, 25, 4000, 4096, 5000, 8191, 9000] {
        let mut document = format!("[\"{}\"]", "a".repeat(9001)).into_bytes();
        document[2 + at] = 0x1f;
        assert_eq!(scan(&[&document]), Err(format!("{:?}", Failure::<()>::Syntax(2 + at))));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_serde_json_reads_them(document in "[\\[\\]{}:,\"\\\\0-9a-fntrul.eE+\\- \\n]{0,40}") {
        let theirs = serde_json::from_str::<serde_json::Value>(&document);
        let ours = scan(&[document.as_bytes()]);
        // A number or word alone ends only with the document. Objects and lists are not affected.
        if document.trim_start().starts_with(['{', '[', '"']) {
            // serde_json refuses lone surrogates and numbers beyond the range of a double. JSON's
            // grammar allows both.
            let is_grammar = theirs.is_ok()
                || theirs.as_ref().is_err_and(|error| {
                    error.to_string().contains("out of range") || error.to_string().contains("surrogate")
                });
            if theirs.is_ok() {
                prop_assert!(ours.is_ok(), "{:?} {:?}", document, ours);
            } else if !is_grammar {
                prop_assert!(ours.is_err(), "{:?} {:?}", document, theirs);
            }
        }
    }

    #[test]
    fn a_string_is_unescaped_as_serde_json_does(text in any::<String>(), ascii in any::<bool>()) {
        let mut spelled = serde_json::to_string(&text).unwrap();
        if ascii {
            spelled = spelled.encode_utf16().map(|unit| match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                _ => format!("\\u{unit:04x}"),
            }).collect();
        }
        let raw = &spelled.as_bytes()[1..spelled.len() - 1];
        prop_assert_eq!(unescape(raw).collect::<Vec<u8>>(), text.as_bytes());
        struct Length(u64, bool);
        impl Sink for Length {
            type Stop = ();
            fn token(&mut self, token: Token<'_>, _: Span) -> Result<(), ()> {
                if let Token::Text(text) = token {
                    (self.0, self.1) = (text.len, text.has_lone_surrogate);
                }
                Ok(())
            }
        }
        let mut length = Length(0, false);
        let document = format!("[{spelled}]");
        prop_assert!(Scanner::new(1).feed(document.as_bytes(), &mut length).is_ok());
        prop_assert_eq!((length.0, length.1), (text.len() as u64, false));
    }

    #[test]
    fn garbage_never_panics(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let _ = scan(&parts);
    }
}
