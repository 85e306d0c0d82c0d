-- KEYS: the tally.
redis.call('DEL', KEYS[1])
tell('forgotten', about(KEYS[1]), '-')
return { '', '' }
