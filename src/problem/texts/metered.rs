//! The messages about metered calls: refusals before the hold, and streams that end early.

use crate::problem::language::Text;

pub(crate) const ENCODED_BODY: Text = Text::fixed(
    "The price of this route is read from the request's body, so the body must not be encoded. Send it \
     without `content-encoding`.",
    "Le prix de cette route se lit dans le corps de la requête, qui ne doit donc pas être encodé. \
     Envoyez-le sans `content-encoding`.",
);

pub(crate) const TWO_CONTENT_TYPES: Text = Text::fixed(
    "The request has two content types. Send one `content-type`.",
    "La requête a deux types de contenu. Envoyez un seul `content-type`.",
);

pub(crate) const MODEL_IN_QUERY: Text = Text::fixed(
    "The query names a model. Name it in the body alone.",
    "La chaîne de requête nomme un modèle. Nommez-le dans le corps seulement.",
);

pub(crate) const TWO_MODELS: Text = Text::fixed(
    "The path and the body name different models. Name the same one in both.",
    "Le chemin et le corps nomment des modèles différents. Nommez le même dans les deux.",
);

pub(crate) const NO_MODEL_NAME: Text = Text::fixed(
    "The model's name is not 1 to 255 visible ASCII characters. Check it against the price list.",
    "Le nom du modèle n'est pas fait de 1 à 255 caractères ASCII visibles. Vérifiez-le dans la liste des \
     prix.",
);

pub(crate) fn unbounded_input(member: &str) -> Text {
    Text::new(
        format!(
            "`{member}` names input that is not in the request, and this model has no limit for it. \
             Send the input itself."
        ),
        format!(
            "`{member}` désigne une entrée absente de la requête, et ce modèle n'a pas de limite pour \
             elle. Envoyez l'entrée elle-même."
        ),
    )
}

pub(crate) fn wrong_type(member: &str) -> Text {
    Text::new(
        format!(
            "`{member}` has a value of the wrong type, and the price depends on it. Check its type."
        ),
        format!(
            "`{member}` a une valeur d'un mauvais type, et le prix en dépend. Vérifiez son type."
        ),
    )
}

pub(crate) fn misspelled(member: &str) -> Text {
    Text::new(
        format!(
            "`{member}` is spelled in another case or with spaces, and the price depends on it. Spell \
             it as the provider does."
        ),
        format!(
            "`{member}` est écrit dans une autre casse ou avec des espaces, et le prix en dépend. \
             Écrivez-le comme le fournisseur."
        ),
    )
}

/// The error event of a stream whose account can pay no more.
pub(crate) const STREAM_USED_UP: Text = Text::fixed(
    "The account has no more credits, so the answer ends here. The part that was delivered is charged.",
    "Le compte n'a plus de crédits, la réponse s'arrête donc ici. La partie livrée est débitée.",
);

/// The error event of a stream whose account was frozen meanwhile.
pub(crate) const STREAM_OF_FROZEN_ACCOUNT: Text = Text::fixed(
    "The account is frozen, so the answer ends here. The part that was delivered is charged.",
    "Le compte est gelé, la réponse s'arrête donc ici. La partie livrée est débitée.",
);

/// The error event of a stream whose hold the ledger cannot enlarge: it does not answer, or has lost the hold.
pub(crate) const STREAM_WITHOUT_LEDGER: Text = Text::fixed(
    "Credits cannot be checked at the moment, so the answer ends here. The part that was delivered is \
     charged.",
    "Les crédits ne peuvent pas être vérifiés pour le moment, la réponse s'arrête donc ici. La partie \
     livrée est débitée.",
);
