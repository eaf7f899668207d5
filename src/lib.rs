//! cancel-worker: takes cancel intents from RabbitMQ, calls the one Paywall endpoint that fits each kind, finds
//! out what really happened, and announces it.
//!
//! ```text
//! delivery -> decode -> plan -> call or inquire -> classify -> decide -> announce -> settle
//! ```
//!
//! # The rooms
//!
//! | room | its one job | what it never touches |
//! |---|---|---|
//! | [`cli`] | one file per command: read, call, print | deciding |
//! | [`config`] | file and environment become a `Config`, all mistakes at once | the network |
//! | [`worker`] | the step of one delivery, and the loop that runs many at once | details of JSON, HTTP or AMQP |
//! | [`admission`] | may this letter call or inquire now: limits, rates, breakers, lock-outs | deciding about a payment |
//! | [`memory`] | what one process remembers beyond a step, bounded | deciding |
//! | [`clock`] | the one place that reads the clock and draws jitter | everything else |
//! | [`domain`] | what we know and decide: plain functions over plain data | async, IO, clock, chance, logs, serde, all other rooms |
//! | [`wire`] | the contract, twin of `schemas/`: letters in, messages out | brokers, deciding |
//! | [`gateway`] | a call or an inquiry over HTTP: one try, one deadline, plain facts | retrying, judging the reply |
//! | [`amqp`] | everything RabbitMQ: screen, connections, consumers, confirms, settlement, topology, preflight | payments, JSON |
//! | [`management`] | RabbitMQ's management API, read only | judging what it lists |
//! | [`telemetry`] | what others see of us: log events, spans, trace context | changing what we do |
//!
//! # Our words
//!
//! Everything else has the name that AMQP 0-9-1, HTTP, payments and OpenTelemetry give it.
//!
//! | word | meaning |
//! |---|---|
//! | letter | one message with an intent, and the headers that it carries from step to step |
//! | delivery | a letter that the broker has delivered to us, until it is settled (in flight, held) |
//! | lane | the queue of one kind that order systems publish to |
//! | intent, kind | what somebody wants to be cancelled, and by which of the gateway's endpoints |
//! | step | what is done with one delivery: at most one call, or the inquiries of one look |
//! | plan | what a step is to do: one call, one look, to wait, or nothing |
//! | look | the inquiries of one step, which ask the gateway what became of a payment |
//! | phase | `call`: the letter may call; `settle`: it only looks, until evidence of *not done* |
//! | quiet | the time after a call in which evidence of *not done* does not count yet |
//! | reply | what came back from the gateway, and what did not |
//! | verdict | what the reply to a call means |
//! | evidence | what a look shows |
//! | history | what a letter carries of its earlier steps |
//! | decision | what follows: messages to announce, and then an ack |
//! | outcome | what the world hears of an intent, or of one payment of a batch |
//! | settle | to ack a delivery once everything that was decided about it is confirmed |
//! | doubt | a call may have had an effect |
//! | isolation | where letters that may crash a process are handled one at a time |
//! | suspect | a letter that may have crashed the process that held it |
//! | copy | a second letter with the same bytes |
//! | returns, hop | the queue of a kind for letters whose wait is over; the way through one delay queue |
//! | rescue | the queue of letters that the broker has dead-lettered from a lane |
//! | announce | to publish what was decided, and to wait for its confirms |
//! | taps | the exchange where outcomes can be read without being a ledger |
//! | strike | a crash with this letter in hand |
//! | generation | everything that was built on one pair of connections to the broker |
#![warn(clippy::too_many_lines)]

pub mod admission;
pub mod amqp;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod gateway;
pub mod management;
pub mod memory;
pub mod telemetry;
mod web;
pub mod wire;
pub mod worker;
