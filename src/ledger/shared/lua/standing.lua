-- screen::Standing: what is revoked is forgotten first, then the longer pass of each test stays.
-- KEYS: the standing. ARGV: now, the numbers of the tests that are revoked (a list), a standing.

local TESTS = 8

local function read_standing(line, now)
    local w = words(line, TESTS)
    local standing = w and numbers(w)
    if not standing or math.max(unpack(standing)) <= now then return { 0, 0, 0, 0, 0, 0, 0, 0 } end
    return standing
end

local now = number(ARGV[1])
local standing, more = read_standing(redis.call('GET', KEYS[1]), now), read_standing(ARGV[3], 0)
for _, test in ipairs(list(ARGV[2])) do standing[tonumber(test) + 1] = 0 end
local ends, written = 0, { '1' }
for n = 1, TESTS do
    local passed = math.max(standing[n], more[n])
    ends = math.max(ends, passed)
    written[n + 1] = whole(passed)
end
local line = table.concat(written, ' ')
-- It is a stranger's.
if ends <= now then line = '1 0 0 0 0 0 0 0 0' end
keep(KEYS[1], line, ends, now)
if ARGV[2] ~= '-' then tell('revoked', about(KEYS[1]), ARGV[2]) end
if math.max(unpack(more)) > now then tell('standing', about(KEYS[1]), ARGV[3]) end
return { line, '' }
