-- The values of the guard, number for number as `src/policy` has them: a line in, a table, a line out. All numbers are
-- whole and far below 2^53, so that Lua's doubles are exact; they are written without a point or an exponent.

local LAST = 4294967295 -- where seconds end: nothing is added to them past this

local function whole(number) return string.format('%.0f', number) end

local function sum(a, b) return math.min(a + b, LAST) end

local function div(a, b) return math.floor(a / b) end

-- A number in a word: at most `most`, 32 bits unless told. Nothing if it is none.
local function number(word, most)
    if not word or #word > 15 or not string.find(word, '^%d+$') then return nil end
    local read = tonumber(word)
    if read > (most or LAST) then return nil end
    return read
end

local function split(text, mark)
    local parts = {}
    for part in string.gmatch(text, '[^' .. mark .. ']+') do parts[#parts + 1] = part end
    return parts
end

-- The words of a line of our form, the form left out; `count` of them. Nothing if it is another.
local function words(line, count)
    if not line then return nil end
    local read = split(line, ' ')
    if #read ~= count + 1 or table.remove(read, 1) ~= '1' then return nil end
    return read
end

local function list(word) return word == '-' and {} or split(word, ',') end

local function joined(items)
    if #items == 0 then return '-' end
    return table.concat(items, ',')
end

-- All numbers, or nothing.
local function numbers(items, first, last)
    local read = {}
    for n = first or 1, last or #items do
        local one = number(items[n])
        if not one then return nil end
        read[#read + 1] = one
    end
    return read
end

local function filter(items, keep)
    local kept = {}
    for _, item in ipairs(items) do
        if keep(item) then kept[#kept + 1] = item end
    end
    return kept
end

-- Rules: the numbers of `rules.rs`, in its order.
local function rules_of(text)
    local n = numbers(split(text, ' '))
    local function limit(at) return { count = n[at], within = n[at + 1] } end
    return {
        failures = limit(1), slow = limit(3), accounts = limit(5), strangers = limit(7), not_offered = limit(9),
        neighbours = limit(11), attack = n[13], known_for = n[14], patience = n[15],
        ladder = { first = n[16], factor = n[17], most = n[18], jitter = n[19], forget = n[20] },
    }
end

-- policy::guard::window

local WINDOW_MOST = 64

local function since(now, at) return math.max(now - at, 0) end

local function window_count(window, within, now)
    within = math.max(within, 1)
    local kept = filter(window, function(at) return since(now, at) < within end)
    if #kept >= WINDOW_MOST then table.remove(kept, 1) end
    kept[#kept + 1] = now
    return kept, #kept
end

local function window_ends(window, within)
    if #window == 0 then return 0 end
    return sum(math.max(unpack(window)), math.max(within, 1))
end

local function leak_count(leak, one_in, now)
    one_in = math.max(one_in, 1)
    leak.level = math.max(leak.level - div(since(now, leak.at) * 1000, one_in), 0) + 1000
    leak.at = math.max(leak.at, now)
    return math.min(math.ceil(leak.level / 1000), LAST)
end

local function leak_ends(leak, one_in)
    if leak.level == 0 then return 0 end
    return sum(leak.at, math.min(math.ceil(leak.level / 1000) * math.max(one_in, 1), LAST))
end

-- What is in it are words.
local function few_add(few, one, room, within, now)
    if #few.ones == 0 or since(now, few.since) >= math.max(within, 1) then
        few.ones, few.since = {}, now
    end
    for _, other in ipairs(few.ones) do
        if other == one then return #few.ones end
    end
    if #few.ones >= room then table.remove(few.ones, 1) end
    few.ones[#few.ones + 1] = one
    return #few.ones
end

local function few_ends(few, within)
    if #few.ones == 0 then return 0 end
    return sum(few.since, math.max(within, 1))
end

local function is_reached(limit, count, patience, most)
    return limit.count > 0 and count >= math.min(limit.count * patience, most or WINDOW_MOST)
end

-- policy::ban::Ladder

local function ladder_span(ladder, level, dice)
    local span = ladder.first
    for _ = 2, level do
        if ladder.factor > 0 and span >= ladder.most then break end
        span = span * ladder.factor
    end
    span = math.min(span, ladder.most)
    local jitter = math.min(ladder.jitter, 90)
    local hundredths = 100 - jitter + dice % (2 * jitter + 1)
    return math.max(math.min(div(span * hundredths, 100), math.max(ladder.most, 1)), 1)
end

local function ladder_level(ladder, step, now)
    local gone = div(since(now, step['until']), math.max(ladder.forget, 1))
    return math.max(step.level - math.min(gone, 255), 0)
end

local function ladder_climb(ladder, step, now, dice)
    local level = math.min(ladder_level(ladder, step, now) + 1, 255)
    return { level = level, ['until'] = sum(now, ladder_span(ladder, level, dice)) }
end

local function ladder_forgotten(ladder, step)
    return sum(step['until'], math.min(ladder.forget * step.level, LAST))
end

-- Tells the other hosts. It is done here and not by the host that asked, so that they hear of changes of one value in
-- the order in which they were made. The last two of ARGV are the channel, and what messages begin with: nothing if
-- nobody is to hear.
local function tell(kind, key, line)
    local channel, head = ARGV[#ARGV - 1], ARGV[#ARGV]
    if head ~= '' then
        redis.call('PUBLISH', channel, table.concat({ head, kind, key, line }, ' '))
    end
end

-- What a key is about.
local function about(key) return string.match(key, '[^:]+$') end

-- Keeps the line until it means nothing any more.
local function keep(key, line, ends, now)
    if ends > now then
        redis.call('SET', key, line, 'EXAT', whole(ends))
    else
        redis.call('DEL', key)
    end
end
