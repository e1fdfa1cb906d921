//! The reasons why a metered body is refused with 400.

use crate::problem::Text;

/// The reason why a body is refused with 400. Positions are bytes from the start of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyMistake {
    /// The bytes are no UTF-8 from here on.
    NotUtf8(usize),
    /// The body breaks the grammar of JSON here, or ends too early.
    NotJson(usize),
    /// The body is JSON, and no object.
    NotAnObject,
    /// Objects and lists are nested more than 64 times.
    TooDeep,
    /// An escape at this place names half of a surrogate pair.
    LoneSurrogate(usize),
    /// A member that the price reads appears twice in one object.
    Twice(Box<str>),
    /// A member that the price reads is spelled otherwise than so.
    Spelling(Box<str>),
    /// `model` is no string of 1 to 255 visible ASCII characters.
    Model,
    /// A count or limit is neither null nor a whole number from 0 to 2^31−1.
    Count(&'static str),
    /// A member is neither a boolean nor null.
    Flag(&'static str),
    /// `stream_options` is neither an object nor null.
    StreamOptions,
    /// The usage of a call in the background is not in its answer.
    Background,
    /// The route does not take this member.
    Denied(Box<str>),
}

impl BodyMistake {
    /// The text for the client.
    pub fn text(&self) -> Text {
        match self {
            Self::NotUtf8(at) => Text::new(
                format!("The body is not UTF-8 at byte {at}; send JSON in UTF-8."),
                format!("Le corps n'est pas en UTF-8 à l'octet {at} ; envoyez du JSON en UTF-8."),
            ),
            Self::NotJson(at) => Text::new(
                format!(
                    "The body is not valid JSON at byte {at}; send one JSON object and nothing after it."
                ),
                format!(
                    "Le corps n'est pas du JSON valide à l'octet {at} ; envoyez un seul objet JSON, sans rien après."
                ),
            ),
            Self::NotAnObject => Text::fixed(
                "The body is not a JSON object; send one, with the request's members.",
                "Le corps n'est pas un objet JSON ; envoyez-en un, avec les membres de la requête.",
            ),
            Self::TooDeep => Text::fixed(
                "The body is nested more than 64 levels deep; send a flatter one.",
                "Le corps est imbriqué sur plus de 64 niveaux ; envoyez-en un moins profond.",
            ),
            Self::LoneSurrogate(at) => Text::new(
                format!(
                    "The text at byte {at} of the body has half of a surrogate pair; send whole characters."
                ),
                format!(
                    "Le texte à l'octet {at} du corps contient la moitié d'une paire de substitution ; envoyez des caractères entiers."
                ),
            ),
            Self::Twice(name) => Text::new(
                format!("The member `{name}` appears twice in one object; send it once."),
                format!(
                    "Le membre `{name}` apparaît deux fois dans un objet ; envoyez-le une seule fois."
                ),
            ),
            Self::Spelling(name) => Text::new(
                format!(
                    "A member is spelled almost like `{name}`; spell it exactly so, without escapes."
                ),
                format!(
                    "Un membre s'écrit presque comme `{name}` ; écrivez-le exactement ainsi, sans échappement."
                ),
            ),
            Self::Model => Text::fixed(
                "`model` must be a string of 1 to 255 visible ASCII characters.",
                "`model` doit être une chaîne de 1 à 255 caractères ASCII visibles.",
            ),
            Self::Count(name) => Text::new(
                format!(
                    "`{name}` must be null or a whole number from 0 to 2147483647, written in digits only."
                ),
                format!(
                    "`{name}` doit être null ou un entier de 0 à 2147483647, écrit en chiffres seulement."
                ),
            ),
            Self::Flag(name) => Text::new(
                format!("`{name}` must be true, false or null."),
                format!("`{name}` doit valoir true, false ou null."),
            ),
            Self::StreamOptions => Text::fixed(
                "`stream_options` must be an object or null.",
                "`stream_options` doit être un objet ou null.",
            ),
            Self::Background => Text::fixed(
                "`background` is not available here, since the usage of such a call is not in its answer; leave it out.",
                "`background` n'est pas disponible ici, car la réponse n'indique pas l'usage d'un tel appel ; retirez-le.",
            ),
            Self::Denied(name) => Text::new(
                format!("The member `{name}` is not available here; leave it out."),
                format!("Le membre `{name}` n'est pas disponible ici ; retirez-le."),
            ),
        }
    }
}
