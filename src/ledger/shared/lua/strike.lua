-- KEYS: the tally. ARGV: now, rules, dice, strike, account.
local now, rules = number(ARGV[1]), rules_of(ARGV[2])
local tally = read_tally(redis.call('GET', KEYS[1]), now)
local sentence = tally_strike(tally, ARGV[4], ARGV[5], rules, now, number(ARGV[3]))
local line = write_tally(tally)
keep(KEYS[1], line, tally.ends, now)
tell('tally', about(KEYS[1]), line)
return { line, sentence }
