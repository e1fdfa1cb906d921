-- wrk's request and its report, for scripts/bench.sh. The token comes from the environment, so
-- that it is in no process list. The request is fixed, so wrk builds it once.
wrk.method = "POST"
wrk.body = '{"model":"canned","messages":[{"role":"user","content":"Hello"}]}'
local bytes = tonumber(os.getenv("BENCH_BODY_BYTES") or "0")
if bytes > 0 then wrk.body = string.rep("x", bytes) end
local file = os.getenv("BENCH_BODY_FILE")
if file then wrk.body = assert(io.open(file)):read("a") end
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")

-- One line that a script can read: requests, microseconds, p50 and p99 in microseconds, then what
-- failed: answers that were not 2xx or 3xx, and connections that broke, stalled or timed out.
function done(summary, latency, _)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
