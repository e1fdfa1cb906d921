//! The messages that only Farebox's own routes use, in the order of their files in `src/api`.

use std::fmt::Display;

use crate::problem::language::Text;

pub(crate) const REFUND_PART_OR_ALL: Text = Text::fixed(
    "Send both `credits` and `id` (an id of your choice) to refund a part, or neither to refund all \
     that is left.",
    "Le remboursement d'une partie a `credits` et `id`, un identifiant de votre choix ; sans l'un \
     ni l'autre, tout ce qui reste est rendu.",
);

pub(crate) const UNKNOWN_ACCOUNT: Text =
    Text::fixed("There is no such account.", "Ce compte n'existe pas.");

pub(crate) const BAD_HOLDS_QUERY: Text = Text::fixed(
    "`older_than` is a number of seconds, `limit` a number up to 1000.",
    "`older_than` est un nombre de secondes, `limit` un nombre jusqu'à 1000.",
);

pub(crate) fn bad_key_hash(error: &dyn Display) -> Text {
    Text::new(
        format!("`hash`: {error}."),
        "`hash` : le SHA-256 de la clé, en 64 chiffres hexadécimaux.",
    )
}

pub(crate) fn too_many_rows(max_rows: usize) -> Text {
    Text::new(
        format!("`rows` has at most {max_rows} rows. Send the others in further requests."),
        format!("`rows` a au plus {max_rows} lignes. Envoyez les autres dans d'autres requêtes."),
    )
}

pub(crate) fn at_place(place: &dyn Display, en: &str, fr: &str) -> Text {
    Text::new(format!("`{place}`: {en}"), format!("`{place}` : {fr}"))
}

pub(crate) const KEY_OF_ANOTHER: Text = Text::fixed(
    "This key is stored already, for another account.",
    "Cette clé est déjà enregistrée, pour un autre compte.",
);

pub(crate) fn nothing_imported(row: usize, en: &str, fr: &str) -> Text {
    Text::new(
        format!("Row {row} (from 0): {en} Nothing of this request was imported."),
        format!("Ligne {row} (à partir de 0) : {fr} Rien de cette requête n'a été importé."),
    )
}

pub(crate) const FOLD_IN_THE_FUTURE: Text = Text::fixed(
    "`before` lies in the future. Send a moment in the past.",
    "`before` est dans le futur. Envoyez un instant passé.",
);

pub(crate) fn bad_hours(max_hours: i64) -> Text {
    Text::new(
        format!("`hours` is a number from 1 to {max_hours}."),
        format!("`hours` est un nombre de 1 à {max_hours}."),
    )
}

pub(crate) fn bad_account(error: &dyn Display) -> Text {
    Text::new(
        format!("`account`: {error}."),
        "`account` : un identifiant de compte fait de 1 à 255 caractères ASCII visibles.",
    )
}

pub(crate) const SANDBOX_HAS_NO_STRIPE: Text = Text::fixed(
    "The sandbox has no Stripe to compare with.",
    "Le bac à sable n'a pas de Stripe auquel se comparer.",
);

pub(crate) const NOTHING_IS_SOLD: Text = Text::fixed(
    "Nothing is sold here: the config has no [stripe] section.",
    "Rien n'est vendu ici : la configuration n'a pas de section [stripe].",
);

pub(crate) const BAD_EVENTS_QUERY: Text = Text::fixed(
    "`state` is received, applied, foreign, ignored or failed; `limit` is a number up to 200, \
     `cursor` the `next_cursor` of the page before.",
    "`state` est received, applied, foreign, ignored ou failed ; `limit` est un nombre jusqu'à \
     200, `cursor` le `next_cursor` de la page précédente.",
);

pub(crate) const TOO_MANY_WRONG_TOKENS: Text = Text::fixed(
    "Too many requests came with a wrong token. Check `[server] admin_token`, and try again later.",
    "Trop de requêtes avec un mauvais jeton. Vérifiez `[server] admin_token` et réessayez plus tard.",
);

pub(crate) const NO_ADMIN_TOKEN: Text = Text::fixed(
    "The admin routes need `Authorization: Bearer` with the token of `[server] admin_token`.",
    "Les routes d'administration demandent `Authorization: Bearer` avec le jeton de `[server] admin_token`.",
);

pub(crate) const BODY_IS_A_LIST: Text = Text::fixed(
    "The body is a list; an object is expected here: {…}.",
    "Le corps est une liste ; un objet est attendu ici : {…}.",
);

pub(crate) fn bad_body(error: &dyn Display) -> Text {
    Text::new(
        format!("The body is not the JSON expected here: {error}."),
        format!("Le corps n'est pas le JSON attendu ici : {error}."),
    )
}

pub(crate) const NO_LOGO: Text = Text::fixed("There is no logo.", "Il n'y a pas de logo.");

pub(crate) const CREDITS_NOT_SOLD: Text = Text::fixed(
    "Credits are not sold here. Ask the operator of this service for them.",
    "Les crédits ne sont pas en vente ici. Demandez-en à l'exploitant de ce service.",
);

pub(crate) fn unknown_pack(pack: &str, prefix: &str) -> Text {
    Text::new(
        format!("There is no pack `{pack}`. GET {prefix}/packs lists what is for sale."),
        format!("Le pack `{pack}` n'existe pas. GET {prefix}/packs donne la liste."),
    )
}

pub(crate) const ANOTHER_PURCHASE: Text = Text::fixed(
    "Another purchase was asked for with this `idempotency-key`. Send a new key with a new \
     purchase.",
    "Cette `idempotency-key` a déjà servi pour un autre achat. Envoyez-en une nouvelle.",
);

pub(crate) const PURCHASE_IN_PROGRESS: Text = Text::fixed(
    "The purchase with this `idempotency-key` is still being made. Ask again in a moment.",
    "L'achat de cette `idempotency-key` est encore en cours. Redemandez dans un instant.",
);

pub(crate) const NO_SESSION_FOR_SERVICES: Text = Text::fixed(
    "A service key belongs to a trusted backend, not into a browser. Sign in with a token or \
     an account's own key.",
    "Une clé de service appartient à un service de confiance, pas à un navigateur. \
     Connectez-vous avec un jeton ou une clé du compte.",
);

pub(crate) const HOLDS_NEED_A_SERVICE_KEY: Text = Text::fixed(
    "Holds are for trusted backends: use a service key (`farebox key create --service`).",
    "Les réservations sont pour les services de confiance : utilisez une clé de service.",
);

pub(crate) const KEYS_NEED_A_TOKEN: Text = Text::fixed(
    "An API key cannot make or revoke keys. Sign in through the app, with its token.",
    "Une clé d'API ne peut ni créer ni révoquer de clés. Connectez-vous par \
     l'application, avec son jeton.",
);

pub(crate) fn token_too_long(sent_bytes: usize, max_bytes: usize) -> Text {
    Text::new(
        format!(
            "This token is too long for the account page's cookie: {sent_bytes} of at most {max_bytes} \
     bytes. Have the app issue a smaller one for it, without groups and permissions."
        ),
        format!(
            "Ce jeton est trop long pour le cookie de la page du compte : {sent_bytes} octets sur \
     {max_bytes} au plus. Faites émettre par l'application un jeton plus petit, sans \
     groupes ni permissions."
        ),
    )
}

pub(crate) const FOREIGN_SESSION: Text = Text::fixed(
    "A browser's session can be used from the account page itself only. Other pages send \
     their own `Authorization: Bearer …`.",
    "La session d'un navigateur ne sert qu'à la page du compte elle-même. Les autres pages \
     envoient leur propre `Authorization: Bearer …`.",
);

pub(crate) fn too_many_streams(max_streams: usize) -> Text {
    Text::new(
        format!("This account has {max_streams} streams open already. Close one first."),
        format!("Ce compte a déjà {max_streams} flux ouverts. Fermez-en un d'abord."),
    )
}

pub(crate) const HOLD_ID_IN_A_PATH: Text = Text::fixed(
    "`id` will stand in the path that ends the hold: choose one that is not `.` or `..`, \
     without `/`, `\\`, `;`, `?`, `#` and `%`.",
    "`id` figurera dans le chemin qui termine la réservation : choisissez-en un autre que \
     `.` et `..`, sans `/`, `\\`, `;`, `?`, `#` ni `%`.",
);

/// 400: a hold for an endpoint whose price is not known without a request to it.
pub(crate) const HOLD_PRICED_BY_USAGE: Text = Text::fixed(
    "This endpoint is priced by usage, so the amount to hold is not known. Send `credits` in place of \
     `endpoint`.",
    "Ce point d'accès est facturé à l'usage : le montant à réserver n'est pas connu. Envoyez `credits` à \
     la place de `endpoint`.",
);

/// 400: a check of an endpoint whose price is not known without the body of the call.
pub(crate) const CHECK_NEEDS_BODY: Text = Text::fixed(
    "This endpoint is priced by usage, so its price depends on the body of the call. Send it as `body`.",
    "Ce point d'accès est facturé à l'usage : son prix dépend du corps de l'appel. Envoyez-le dans `body`.",
);

pub(crate) const ENDPOINT_OR_CREDITS: Text =
    Text::fixed("Send either `endpoint` or `credits`.", "Envoyez soit `endpoint`, soit `credits`.");

pub(crate) fn bad_ttl(max_ttl_secs: u64) -> Text {
    Text::new(
        format!("`ttl_seconds` is from 1 to {max_ttl_secs}."),
        format!("`ttl_seconds` va de 1 à {max_ttl_secs}."),
    )
}

pub(crate) fn bad_id(error: &dyn Display) -> Text {
    Text::new(
        format!("`id`: {error}."),
        "`id` : un identifiant fait de 1 à 128 caractères ASCII visibles, sans espace.",
    )
}

pub(crate) fn bad_credits(error: &dyn Display) -> Text {
    Text::new(format!("`credits`: {error}."), format!("`credits` : {error}."))
}

pub(crate) fn bad_key_name(max_name: usize) -> Text {
    Text::new(
        format!("`name` is 1 to {max_name} characters, on one line."),
        format!("`name` est fait de 1 à {max_name} caractères, sur une ligne."),
    )
}

pub(crate) fn too_many_keys_today(max_a_day: usize) -> Text {
    Text::new(
        format!("This account has made {max_a_day} keys within a day. Try again tomorrow."),
        format!("Ce compte a créé {max_a_day} clés en un jour. Réessayez demain."),
    )
}

pub(crate) const NOT_YOUR_KEY: Text =
    Text::fixed("This account has no such key.", "Ce compte n'a pas de telle clé.");

pub(crate) fn too_many_keys(max_live: usize) -> Text {
    Text::new(
        format!("This account has {max_live} keys already. Revoke one that you no longer use."),
        format!("Ce compte a déjà {max_live} clés. Révoquez-en une qui ne sert plus."),
    )
}

pub(crate) fn unknown_parameters(sent: &dyn Display, has: &dyn Display, a: &dyn Display) -> Text {
    Text::new(
        format!("Unknown query parameters: {sent}. {has}"),
        format!("Cette route n'a pas ces paramètres de requête : {sent}. {a}"),
    )
}

pub(crate) const NOTHING_HERE: Text =
    Text::fixed("There is nothing at this path.", "Il n'y a rien à ce chemin.");

pub(crate) fn nothing_under(prefix: &str) -> Text {
    Text::new(
        format!("There is nothing at this path. GET {prefix}/openapi.json lists the routes."),
        format!("Il n'y a rien à ce chemin. GET {prefix}/openapi.json donne la liste."),
    )
}

pub(crate) const UNKNOWN_SESSION: Text =
    Text::fixed("There is no such checkout session.", "Cette session de paiement n'existe pas.");

pub(crate) fn bad_page(what: &dyn Display, max_limit: u32) -> Text {
    Text::new(
        format!(
            "`{what}` is not valid: `limit` is a number up to {max_limit}, `cursor` the `next_cursor` of the page before."
        ),
        format!(
            "`{what}` n'est pas valable : `limit` est un nombre jusqu'à {max_limit}, `cursor` le `next_cursor` de la page précédente."
        ),
    )
}

pub(crate) fn bad_time(what: &dyn Display) -> Text {
    Text::new(
        format!(
            "`{what}` is not a date such as 2026-11-23 or a moment such as 2026-11-23T05:00:00Z."
        ),
        format!(
            "`{what}` n'est ni une date telle que 2026-11-23, ni un instant tel que \
     2026-11-23T05:00:00Z."
        ),
    )
}

pub(crate) const NO_SUCH_FILE: Text =
    Text::fixed("There is no such file.", "Ce fichier n'existe pas.");

pub(crate) const USAGE_BUSY: Text = Text::fixed(
    "This account's usage is being added up for another request. Try again later.",
    "La consommation de ce compte est en cours de calcul pour une autre requête. \
     Réessayez plus tard.",
);

pub(crate) fn bad_days(max_days: i64) -> Text {
    Text::new(
        format!("`days` is a number from 1 to {max_days}."),
        format!("`days` est un nombre de 1 à {max_days}."),
    )
}

pub(crate) fn event_refused(error: &dyn Display) -> Text {
    Text::new(
        format!("The event was not accepted: {error}."),
        format!("L'événement n'a pas été accepté : {error}."),
    )
}

pub(crate) const BAD_PAYMENT_INTENT: Text = Text::fixed(
    "`payment_intent` is Stripe's id of a payment: it begins with pi_",
    "`payment_intent` est l'identifiant Stripe d'un paiement : il commence par pi_",
);

pub(crate) fn bad_paid(error: &dyn Display) -> Text {
    Text::new(format!("`paid`: {error}"), format!("`paid` : {error}"))
}
