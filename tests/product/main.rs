//! The product as an outsider sees it: its routes, JSON, headers, commands and metrics,
//! over HTTP and through the real binary.
//!
//! The failures that users of other gateways report, and the tests that show that they do not
//! happen here, each under its test binary: `product` (this one), `proxy`, `ledger`,
//! `buying`. The ledger's and those of buying run once for each kind of ledger.
//!
//! | failure | shown by |
//! |---|---|
//! | fifty parallel requests pass on a balance for ten | `proxy settlement::fifty_parallel_requests_on_a_balance_for_ten_pass_ten_times`, `product faults::the_last_credit_is_spent_once_by_a_thousand_clients`, `ledger last_credit::last_credit_is_spent_once` |
//! | reservations leak and then refuse paying users | `proxy settlement::hundreds_of_failures_of_every_kind_leave_nothing_held`, `ledger lifetimes::a_dropped_hold_future_leaves_no_hold`, `a_panicking_call_releases` and `the_hold_of_a_leaked_call_expires`, `product crash::the_holds_of_a_crash_are_given_back` |
//! | a hold expires under a call that runs | `product time::a_gateway_that_is_paused_for_longer_than_a_hold_lives_expires_no_live_calls_hold` and `a_moved_clock_expires_no_hold_and_dates_the_entries`, `ledger lifetimes::a_live_calls_hold_never_expires` |
//! | a path that nobody priced is free; a passthrough skips the budget | `proxy paths::a_path_or_method_without_a_rule_is_a_404_and_reaches_no_upstream` and `no_spelling_of_an_expensive_path_buys_a_cheap_one`, `product own::a_check_of_what_nobody_priced_is_refused` |
//! | each replica counts for itself | `cluster last_credit`; one process has the embedded ledger: `product offline::a_ledger_in_use_is_not_touched` and `a_ledger_has_one_writer_by_whatever_name` |
//! | an aborted stream is free, or charged in full | the route says which: `proxy aborts::leaving_in_the_middle_of_a_stream_follows_the_route`, `leaving_before_the_whole_request_was_sent_is_free` and `leaving_after_the_whole_request_was_sent_is_charged_unless_the_route_says_otherwise` |
//! | a client's retry is charged twice; a paid answer is lost | `proxy retries`, `metered retries`; over gateways and losses `cluster retries`, `ledger claims_cluster`; the official SDKs: `tests/sdk`. Grants: `product admin::a_grant_takes_effect_once`; holds: `product holds::the_same_hold_again_is_one_hold` |
//! | a duplicate webhook mints credits | `buying webhooks::a_duplicate_webhook_mints_nothing`, `orders::repeated_events_in_any_order_with_crashes_between_give_one_balance` and `many_purchases_at_once_each_event_several_times_at_once_give_one_balance` |
//! | refunds are not taken back, or twice | `buying refunds::half_of_the_money_takes_half_of_the_credits`, `a_refund_counts_once_under_both_of_its_names` and `a_refund_that_comes_before_its_purchase_is_not_forgotten` |
//! | disputes are not taken back, or not reinstated when won | `buying disputes::what_the_bank_takes_is_taken_back_and_returned_when_it_is_won`, `a_disputing_account_is_frozen_and_thaws_when_it_is_won` and `what_is_refunded_and_disputed_is_taken_back_once` |
//! | a negative price or usage mints credits | `product admin::amounts_that_make_no_sense_change_nothing`, `product holds::a_capture_above_its_hold_is_refused`, `product cli::five_mistakes_are_five_lines` (a negative price), `ledger contract::no_posting_moves_a_balance_the_wrong_way` |
//! | Redis and Postgres drift apart; a cache wipe erases debits | `cluster redis_loss` and the end of every test in `cluster`; memory and file: every `assert_reconciled`, `ledger upkeep::reconcile_finds_what_is_wrong` |
//! | spend updates deadlock or exhaust connections | `cluster field::spending_neither_deadlocks_nor_exhausts_the_database`; one writer: `product faults::the_last_credit_is_spent_once_by_a_thousand_clients` and `a_ledger_that_somebody_locks_is_503_and_heals_by_itself` |
//! | memory grows until the process dies; throughput falls over hours | `product memory::memory_is_flat_over_many_requests`, `proxy streaming::a_large_upload_and_download_run_in_constant_memory`; the file: `ledger upkeep::folding_goes_in_slices_each_of_them_whole` and `old_endings_are_forgotten_a_slice_at_a_time` |
//! | a charge lands before an upstream that then fails | `proxy settlement::nothing_is_charged_before_the_upstream_has_answered`, `a_2xx_that_the_upstream_breaks_off_is_free`, `silence_before_the_answer_is_a_504_and_free` and `a_refused_connection_is_a_502_and_free` |
//! | another spelling of a path buys a cheaper call | `proxy paths::no_spelling_of_an_expensive_path_buys_a_cheap_one`; unit tests of the price table try every respelling |
//! | work for free by keeping the last byte of a request back | `proxy bodies::a_small_body_that_lacks_a_byte_reaches_no_upstream_and_is_free`, `a_get_head_delete_or_options_is_whole_with_its_head` and `over_http_2_too_nobody_has_work_done_by_keeping_a_byte_back`, `aborts::an_answer_without_a_body_is_charged_though_the_client_kept_a_byte_of_its_request_back` |
//! | one dead address of several fails most calls | `proxy addresses::every_call_succeeds_as_long_as_one_address_lives` |
//! | a WebSocket that a deploy or a crash cuts is free | `proxy websocket::a_websocket_that_a_stop_cuts_stays_paid_for`, `product crash::a_tunnel_that_a_crash_cuts_stays_paid_for` |
//! | an HTTP/2 body ends twice upstream; a stalled upload blocks the others; uploads crawl | `proxy http2` |
//! | a failover to a lagging Postgres replica loses charges or purchases | `cluster failover::a_replica_that_lacks_the_last_seconds_takes_over_and_no_charge_is_lost`, `failover::purchases_that_a_failover_lost_come_back_from_stripe` |
//! | one connection stays on a demoted Redis | `cluster two_redis::two_connections_that_lead_to_two_servers_are_brought_together` |
//! | a default estimate is so large that those who can pay get 402 | `metered growing::an_account_that_can_pay_for_an_answer_is_not_refused_for_the_longest_one` |
//! | an answer that nobody can decode, or a part of one, is nearly free | `metered unread` |
//! | a request names other models beside `model` | `metered several_models` |
//! | a kill -9 in a metered stream loses or doubles its charge | `product metered_crash` |
//! | memory and allocations of a call grow unseen | `budget` |
//! | HTTP/2 is used to exhaust a gateway | `proxy http2_attacks` |
//! | HTTP/1.0 clients get chunks and 1xx | `proxy old_clients` |
//! | browsers cannot read the upstream's exposed headers | `proxy cors::pages_may_read_what_the_upstream_exposes` |
//! | an empty credential header beside a good one is 401 | `product auth::an_empty_credential_header_beside_a_good_one_does_not_count` |
//! | JWKS keys after the n-th are dropped; a rotated key is held up by strangers | `product auth::a_rotated_key_works_at_once_whoever_sent_forged_tokens_before` |
//! | `x-forwarded-for` with an IPv4-mapped address | `proxy headers::an_ipv4_client_of_a_dual_stack_listener_is_told_by_its_ipv4_address` |
//! | punctuation in a header's name passes for Farebox's own in CGI | `proxy cgi`, `headers::no_punctuation_hides_a_name` |
//! | two imports, or an import and a webhook, of one payment both grant | `buying imported::a_payment_is_granted_once_however_many_imports_of_it_come_at_once` and `a_payment_that_is_imported_while_it_is_sold_is_granted_once`, `ledger imports::a_payment_is_granted_once_under_whatever_ids_at_once` |
//! | a dispute that is partly won counts as won | `buying disputes::a_dispute_that_is_partly_won_returns_its_part`, `orders::any_order_gives_one_balance_when_a_dispute_is_partly_won` |
//! | a secret with a line break is taken, and every webhook or token then fails | `buying signatures::a_secret_that_is_not_as_stripe_shows_it_refuses_to_check_and_to_start`; unit tests of the config for a JWT's |
//! | one webhook request blocks a thread for seconds | `buying signatures::a_request_without_a_good_signature_costs_one_hash_of_its_body_at_the_most` |
//! | a redirect takes Stripe's key elsewhere; an answer of Stripe's fills the memory | `buying connection::a_redirect_takes_the_key_nowhere_else`, `an_endless_answer_is_cut_off` |
//! | one client gets the answer of another; an upstream's second answer goes to the next caller | `forwarder crosstalk`, `proxy upstreams::what_came_unasked_on_an_idle_connection_is_no_answer_to_the_next_call` |
//! | a proxy changes what passes | `forwarder differential` |
//! | buyers' personal data pile up in the ledger | `buying personal` |
//! | half-open connections to the probes take the process down | `product listeners::half_open_connections_to_private_listeners_take_nothing_down` and `a_gateway_with_few_files_caps_its_connections_and_serves_on` |
//! | the first sale is no increase in Prometheus | `product metrics::every_series_whose_labels_are_known_begins_at_zero_also_after_a_reload` |
//! | strangers fill the log, or an upstream's cookies stand in it | `product operating::anybody_s_lines_are_a_few_a_second_and_the_rest_is_counted` and `a_head_that_cannot_be_read_is_not_in_the_log` |
//! | a mistyped query parameter is ignored | `product parameters::an_unknown_query_parameter_is_refused_by_name_on_every_own_route` |
//! | a link signs somebody in as another; a sibling host's cookie signs in or locks out | `screens signing_in::a_link_signs_nobody_in_who_was_not_asked`, `a_neighbours_cookie_neither_locks_anybody_out_nor_signs_anybody_in` |
//! | two Reacts after an install from a folder | `screens vite::the_package_installs_from_its_folder_for_vite_and_typescript` |
//! | odd bytes on the wire get a call for less than its price | `product fuzz::run::no_bytes_on_the_wire_buy_a_call_for_less_than_its_price` |
//! | cached tokens are billed twice | `metered usage::usage_is_charged_exactly_whatever_its_kinds` |
//! | an unknown model costs nothing | `metered models::an_unknown_model_is_never_served` |
//! | an aborted stream of tokens is free, or charged in full | `metered leaving::a_stream_costs_its_input_and_what_was_delivered` |
//! | a stream outruns its balance | `metered growing::streams_that_run_side_by_side_never_outrun_their_balance` |
//! | only chat is counted; responses, messages and embeddings pass for free | `metered official_shapes` |
//! | a limit that the provider ignores, or a list of prompts, buys tokens below their price | `metered attacks` |
//! | two Redis servers make gateways recover for ever | `cluster two_redis` |
//! | an upstream closes or resets an idle TLS connection, and the next call fails | `proxy upstream_tls` |
//! | a reset takes the last answer from a client that sends on | `proxy closing` |
//! | an upstream frames an answer in two ways | `proxy framing::an_answer_has_one_framing_or_is_a_502_and_free` |
//! | a retry gets a part of an answer as if it were whole | `proxy retries::leaving::an_answer_that_broke_off_behind_a_stalled_client_is_not_replayed_as_a_whole_one`, `metered retries::an_encoded_stream_that_ran_dry_is_not_replayed` |
//! | tokens that a model thinks outrun the hold of its stream | `metered growing::hidden_tokens_that_a_stream_tells_as_it_goes_grow_its_hold_and_end_it` |
//! | a gateway is killed in the middle of metered calls with keys, and a retry pays again | `cluster retries::metered_calls_of_a_gateway_that_is_killed_are_charged_once_by_their_usage` |
//! | a stream blames the account for the gateway's own ledger | `cluster metered::a_stream_whose_hold_was_lost_ends_with_our_failure_and_pays_for_what_it_delivered` |
//! | a call is charged and its answer is not kept | `proxy retries::crash::a_call_is_charged_once_its_answer_is_stored_and_not_before` |
//! | the embedded ledger's file is slow, locked or fails during a write while calls go on | `ledger beside` |
//! | a gateway that comes back from a pause spends from a Redis that the others have left | `cluster redis_loss::relaxed::a_gateway_on_the_old_master_spends_nothing_that_the_new_one_has` |
//! | two installations reach one Redis and charge each other's calls | `cluster two_ledgers` |
//! | a Redis is put back to a snapshot while it runs | `cluster redis_loss::strict::a_server_that_goes_back_to_an_earlier_state_without_a_restart_serves_no_call_unpaid` |
//! | a command without a way to Redis has a healthy cluster recovered | `cluster outages::strict::a_gateway_without_a_way_to_redis_that_has_nothing_to_hand_over_ends_without_a_recovery` |
//! | Postgres answers and refuses every write, and each refused call leaves a hold in Redis | `ledger refusing_postgres` |
//! | Redis loses the live holds alone, and all accounts are 503 without a word | `ledger cluster::cluster_strict::a_redis_that_lost_its_live_holds_alone_is_recovered` |
//! | an address leads to another Redis for a moment, and the epoch ends | `cluster two_redis::strict::an_address_that_led_to_another_server_for_a_moment_ends_no_epoch` |
//! | without Redis a command or a stop hangs | `cluster away::strict::without_redis_a_command_and_a_stop_end_within_seconds` |
//! | a migration stalls calls behind a dump of the database | `ledger layouts::the_schema_is_brought_up_while_gateways_serve_and_none_waits_for_a_dump` |
//! | a locked row, a cold account, a grant or a repair stalls a gateway's calls | `ledger rare`, `ledger rare_repairs`, `ledger locked` |
//! | a gateway stops while somebody locks a row, and the others answer 503 until the row is free | `cluster stops`, `ledger stops` |
//! | a busy account's grants, refunds and API holds are refused | `ledger busy`, `ledger locked::*::a_row_that_is_soon_free_refuses_nothing` |
//! | a refund through another gateway says that a charged call has no charge | `ledger locked::*::a_refund_of_an_answered_call_waits_for_its_charge_and_is_never_unknown` |
//! | a repair stops purchases, or ends at a locked row without a report | `ledger rare_repairs::*::a_repair_leaves_a_row_that_stays_locked_and_mends_the_others`, `a_repair_while_a_locked_row_keeps_charges_back_mends_the_others_in_both_stores` |
//! | a newcomer is refused although another gateway gave it credits | `ledger rare::*::a_newcomer_that_another_gateway_opened_has_its_credits_at_once` |
//! | more database connections than allowed; a statement that was given up spoils its connection | `ledger locked::*::a_gateway_has_no_more_connections_than_it_may`, `ledger leaving` |
//! | a panic or a stop of the ledger loses a charge | `ledger stops`, and unit tests of the pipeline |
//! | calls that can only be refused wait for seconds | `ledger refused`, `ledger without_postgres::strict_a_release_that_cannot_be_committed_delays_no_refusal` |
//! | an end of a hold under another account shows that account's balance | `ledger contract::*::an_end_that_names_another_account_shows_no_balance` |
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

use support::{http, process};

mod admin;
mod auth;
mod certificates;
mod cli;
mod crash;
mod cut_off;
mod demo;
mod documents;
mod events;
mod faults;
mod file_rights;
mod fuzz;
mod holds;
mod imports;
mod init;
mod keys;
mod layers;
mod listeners;
mod memory;
mod metered;
mod metered_crash;
mod metrics;
mod money;
mod offline;
mod operating;
mod overview;
mod own;
mod packaging;
mod parameters;
mod problems;
mod reseller;
mod session;
mod time;
mod ui;
mod upstream_tls;
mod work;
