-- The Lua files are the scripts of the ledger in Redis. Each takes its table from `...`.
std = "lua51"
max_line_length = 120
read_globals = { "redis", "struct", "cmsgpack", "ARGV" }
exclude_files = { "scripts/*.lua", "target" }
