//! The messages about idempotency keys, and about retries that meet the first call.

use crate::problem::language::Text;

pub(crate) const BAD_IDEMPOTENCY_KEY: Text = Text::fixed(
    "`idempotency-key` must be one text of 1 to 255 visible ASCII characters, with or without quotes around it.",
    "`idempotency-key` doit être un seul texte de 1 à 255 caractères ASCII visibles, avec ou sans guillemets.",
);

pub(crate) const IN_PROGRESS: Text = Text::fixed(
    "The first call with this idempotency key is still running. Send the same request again in a second.",
    "Le premier appel avec cette clé d'idempotence est encore en cours. Renvoyez la même requête dans une \
     seconde.",
);

pub(crate) const OTHER_REQUEST: Text = Text::fixed(
    "This idempotency key was used for another request. Use a new key for each new request.",
    "Cette clé d'idempotence a servi pour une autre requête. Utilisez une nouvelle clé pour chaque nouvelle \
     requête.",
);

pub(crate) const NOT_KEPT: Text = Text::fixed(
    "The call with this idempotency key was charged, but its answer was not kept: it was too large, or the \
     call was cut off. Use a new key to make the call again; it is then charged again.",
    "L'appel avec cette clé d'idempotence a été débité, mais sa réponse n'a pas été conservée : elle était \
     trop volumineuse, ou l'appel a été interrompu. Utilisez une nouvelle clé pour refaire l'appel ; il sera \
     alors débité de nouveau.",
);
