//! The texts of metered bodies that are refused because parsers could read them in two ways; all are
//! BAD_REQUEST.

use crate::problem::language::Text;

pub(crate) fn body_not_utf8(at: usize) -> Text {
    Text::new(
        format!("The body is not UTF-8 at byte {at}; send JSON in UTF-8."),
        format!("Le corps n'est pas en UTF-8 à l'octet {at} ; envoyez du JSON en UTF-8."),
    )
}

pub(crate) fn body_not_json(at: usize) -> Text {
    Text::new(
        format!(
            "The body is not valid JSON at byte {at}; send one JSON object and nothing after it."
        ),
        format!(
            "Le corps n'est pas du JSON valide à l'octet {at} ; envoyez un seul objet JSON, sans rien après."
        ),
    )
}

pub(crate) const BODY_NOT_AN_OBJECT: Text = Text::fixed(
    "The body is not a JSON object; send one, with the request's members.",
    "Le corps n'est pas un objet JSON ; envoyez-en un, avec les membres de la requête.",
);

pub(crate) const BODY_TOO_DEEP: Text = Text::fixed(
    "The body is nested more than 64 levels deep; send a flatter one.",
    "Le corps est imbriqué sur plus de 64 niveaux ; envoyez-en un moins profond.",
);

pub(crate) fn body_lone_surrogate(at: usize) -> Text {
    Text::new(
        format!(
            "The text at byte {at} of the body has half of a surrogate pair; send whole characters."
        ),
        format!(
            "Le texte à l'octet {at} du corps contient la moitié d'une paire de substitution ; envoyez des caractères entiers."
        ),
    )
}

pub(crate) fn member_twice(name: &str) -> Text {
    Text::new(
        format!("The member `{name}` appears twice in one object; send it once."),
        format!("Le membre `{name}` apparaît deux fois dans un objet ; envoyez-le une seule fois."),
    )
}

pub(crate) fn member_misspelled(name: &str) -> Text {
    Text::new(
        format!("A member is spelled almost like `{name}`; spell it exactly so, without escapes."),
        format!(
            "Un membre s'écrit presque comme `{name}` ; écrivez-le exactement ainsi, sans échappement."
        ),
    )
}

pub(crate) const BAD_MODEL: Text = Text::fixed(
    "`model` must be a string of 1 to 255 visible ASCII characters.",
    "`model` doit être une chaîne de 1 à 255 caractères ASCII visibles.",
);

pub(crate) fn bad_count(name: &str) -> Text {
    Text::new(
        format!(
            "`{name}` must be null or a whole number from 0 to 2147483647, written in digits only."
        ),
        format!(
            "`{name}` doit être null ou un entier de 0 à 2147483647, écrit en chiffres seulement."
        ),
    )
}

pub(crate) fn bad_flag(name: &str) -> Text {
    Text::new(
        format!("`{name}` must be true, false or null."),
        format!("`{name}` doit valoir true, false ou null."),
    )
}

pub(crate) const BAD_STREAM_OPTIONS: Text = Text::fixed(
    "`stream_options` must be an object or null.",
    "`stream_options` doit être un objet ou null.",
);

pub(crate) const NO_BACKGROUND: Text = Text::fixed(
    "`background` is not available here, since the usage of such a call is not in its answer; leave it out.",
    "`background` n'est pas disponible ici, car la réponse n'indique pas l'usage d'un tel appel ; retirez-le.",
);

pub(crate) fn other_models(name: &str) -> Text {
    Text::new(
        format!(
            "The price is that of `model`, and `{name}` can have another model answer. Leave it out, and \
             name one model in `model`."
        ),
        format!(
            "Le prix est celui de `model`, et `{name}` peut faire répondre un autre modèle. Retirez-le et \
             nommez un seul modèle dans `model`."
        ),
    )
}

pub(crate) fn member_denied(name: &str) -> Text {
    Text::new(
        format!("The member `{name}` is not available here; leave it out."),
        format!("Le membre `{name}` n'est pas disponible ici ; retirez-le."),
    )
}
