-- KEYS: the tally.
redis.call('DEL', KEYS[1])
return { '', '' }
