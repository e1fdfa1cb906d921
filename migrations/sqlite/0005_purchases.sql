-- Events of Stripe's were kept whole, with the buyer's name, address, email and phone. From here on
-- only the members that are read are written (src/stripe/kept.rs), and this trims the older events
-- to the same ones. What the file still has of them in unused space goes when it is rewritten, after
-- the migrations (src/ledger/sqlite/rewrite.rs).

-- json_patch takes away the members that are null because an event does not have them.
UPDATE stripe_events SET payload = json_patch('{}', json_object(
    'id', id,
    'type', kind,
    'data', json_object('object', CASE
        WHEN NOT json_valid(payload) OR json_type(payload, '$.data.object') IS NOT 'object'
        THEN json('{}')
        WHEN NOT (kind GLOB 'checkout.session.*' OR kind GLOB 'refund.*'
            OR kind GLOB 'charge.dispute.*' OR kind IN ('charge.refunded', 'charge.refund.updated'))
        THEN json('{}')
        ELSE json_object(
            'id', payload->>'$.data.object.id',
            'amount', payload->>'$.data.object.amount',
            'amount_refunded', payload->>'$.data.object.amount_refunded',
            'amount_subtotal', payload->>'$.data.object.amount_subtotal',
            'amount_total', payload->>'$.data.object.amount_total',
            'currency', payload->>'$.data.object.currency',
            'status', payload->>'$.data.object.status',
            'payment_status', payload->>'$.data.object.payment_status',
            -- The id, or the whole object where it was expanded.
            'payment_intent', CASE json_type(payload, '$.data.object.payment_intent')
                WHEN 'object' THEN payload->>'$.data.object.payment_intent.id'
                ELSE payload->>'$.data.object.payment_intent' END,
            'charge', CASE json_type(payload, '$.data.object.charge')
                WHEN 'object' THEN payload->>'$.data.object.charge.id'
                ELSE payload->>'$.data.object.charge' END,
            'metadata', CASE json_type(payload, '$.data.object.metadata')
                WHEN 'object' THEN json_object(
                    'farebox', payload->>'$.data.object.metadata.farebox',
                    'account', payload->>'$.data.object.metadata.account',
                    'pack', payload->>'$.data.object.metadata.pack',
                    'credits', payload->>'$.data.object.metadata.credits') END,
            'refunds', CASE json_type(payload, '$.data.object.refunds.data')
                WHEN 'array' THEN json_object('data', (
                    SELECT json_group_array(json(json_patch('{}', json_object(
                        'id', r.value->>'$.id',
                        'amount', r.value->>'$.amount',
                        'currency', r.value->>'$.currency',
                        'status', r.value->>'$.status',
                        'payment_intent', CASE json_type(r.value, '$.payment_intent')
                            WHEN 'object' THEN r.value->>'$.payment_intent.id'
                            ELSE r.value->>'$.payment_intent' END,
                        'charge', CASE json_type(r.value, '$.charge')
                            WHEN 'object' THEN r.value->>'$.charge.id'
                            ELSE r.value->>'$.charge' END))))
                    FROM json_each(payload, '$.data.object.refunds.data') r
                    WHERE r.type = 'object')) END,
            'balance_transactions', CASE json_type(payload, '$.data.object.balance_transactions')
                WHEN 'array' THEN (
                    SELECT json_group_array(json_object(
                        'amount', b.value->>'$.amount', 'currency', b.value->>'$.currency'))
                    FROM json_each(payload, '$.data.object.balance_transactions') b
                    WHERE b.type = 'object') END)
    END)));

-- Finds the purchases that an account began lately and has not paid; each new purchase looks for them.
CREATE INDEX IF NOT EXISTS unpaid_by_account ON payments (account, created_at) WHERE paid = 0;

-- An account's live keys, and those that it revoked lately: an account page lists them, and what was
-- revoked is kept for ever.
CREATE INDEX IF NOT EXISTS api_keys_by_end ON api_keys (account, revoked_at);
