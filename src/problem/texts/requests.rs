//! The messages about requests that are refused before they are priced. All are BAD_REQUEST.

use crate::problem::language::Text;

pub(crate) const BAD_CONNECTION_HEADER: Text = Text::fixed(
    "The `connection` header lists too many headers, or one that it must not list. Send it with \
     `close`, `keep-alive` or `upgrade` only, or leave it out.",
    "L'en-tête `connection` cite trop d'en-têtes, ou un en-tête qu'il ne doit pas citer. Envoyez-le \
     avec `close`, `keep-alive` ou `upgrade` seulement, ou omettez-le.",
);

pub(crate) const QUERY_NOT_ENCODED: Text = Text::fixed(
    "The query string has characters that must be percent-encoded.",
    "La chaîne de requête contient des caractères à encoder.",
);

pub(crate) const NOT_ON_THIS_HOST: Text = Text::fixed(
    "The request's target is not a path on this host. Send it as `/path`.",
    "La cible de la requête n'est pas un chemin de cet hôte. Envoyez-la comme `/chemin`.",
);

pub(crate) const BAD_CONTENT_LENGTH: Text = Text::fixed(
    "The request's body has two lengths, or one that is no number. Send one \
     `content-length`, with digits only.",
    "Le corps de la requête a deux longueurs, ou une qui n'est pas un nombre. Envoyez un \
     seul `content-length`, en chiffres seulement.",
);

pub(crate) const BAD_HOST: Text = Text::fixed(
    "The `host` header is no host. Send a name or an address, and a port if you like (RFC 9110, 7.2).",
    "L'en-tête `host` n'est pas un hôte. Envoyez un nom ou une adresse, et un port si vous voulez \
     (RFC 9110, 7.2).",
);

pub(crate) const NO_HOST: Text = Text::fixed(
    "The request names no host. Send one `host` header (RFC 9112, 3.2).",
    "La requête ne nomme aucun hôte. Envoyez un en-tête `host` (RFC 9112, 3.2).",
);

pub(crate) const TWO_FRAMINGS: Text = Text::fixed(
    "The request's body has two framings. Send either `content-length` or one \
     `transfer-encoding: chunked`.",
    "Le corps de la requête a deux délimitations. Envoyez soit `content-length`, soit un \
     seul `transfer-encoding: chunked`.",
);

pub(crate) const BAD_TRANSFER_CODING: Text = Text::fixed(
    "The request's body has a transfer coding that is not taken here. Send it with \
     `transfer-encoding: chunked` alone.",
    "Le corps de la requête a un codage de transfert qui n'est pas accepté ici. Envoyez-le \
     avec `transfer-encoding: chunked` seulement.",
);

pub(crate) const NO_WEBSOCKET: Text = Text::fixed(
    "This route does not take WebSocket connections.",
    "Cette route n'accepte pas les connexions WebSocket.",
);
