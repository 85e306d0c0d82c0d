-- policy::guard::Tally

local ACCOUNTS = 16

local function read_tally(line, now)
    local none = {
        failed = {}, not_offered = {}, slow = { level = 0, at = 0 }, step = { level = 0, ['until'] = 0 },
        known_until = 0, ends = 0, accounts = { since = 0, ones = {} },
    }
    local w = words(line, 10)
    if not w then return none end
    local failed, not_offered, accounts = numbers(list(w[1])), numbers(list(w[2])), list(w[10])
    local level, n = number(w[3], 1e14), numbers(w, 4, 9)
    if not (failed and not_offered and numbers(accounts) and level and n) then return none end
    if math.max(#failed, #not_offered) > WINDOW_MOST or #accounts > ACCOUNTS or n[2] > 255 then return none end
    if n[5] <= now then return none end
    return {
        failed = failed, not_offered = not_offered, slow = { level = level, at = n[1] },
        step = { level = n[2], ['until'] = n[3] }, known_until = n[4], ends = n[5],
        accounts = { since = n[6], ones = accounts },
    }
end

local function write_tally(tally)
    local function times(window)
        local written = {}
        for n, at in ipairs(window) do written[n] = whole(at) end
        return joined(written)
    end
    return table.concat({
        '1', times(tally.failed), times(tally.not_offered), whole(tally.slow.level), whole(tally.slow.at),
        whole(tally.step.level), whole(tally.step['until']), whole(tally.known_until), whole(tally.ends),
        whole(tally.accounts.since), joined(tally.accounts.ones),
    }, ' ')
end

local function tally_ends(tally, rules)
    tally.ends = math.max(
        window_ends(tally.failed, rules.failures.within), leak_ends(tally.slow, rules.slow.within),
        few_ends(tally.accounts, rules.accounts.within), window_ends(tally.not_offered, rules.not_offered.within),
        ladder_forgotten(rules.ladder, tally.step), tally.known_until)
end

local function tally_failed(tally, account, rules, now, patience)
    local failures, slow, accounts
    tally.failed, failures = window_count(tally.failed, rules.failures.within, now)
    slow = leak_count(tally.slow, rules.slow.within, now)
    accounts = account == '-' and 0 or few_add(tally.accounts, account, ACCOUNTS, rules.accounts.within, now)
    if is_reached(rules.accounts, accounts, patience, ACCOUNTS) then return 'auth-accounts', accounts end
    if is_reached(rules.failures, failures, patience) then return 'auth-failures', failures end
    if is_reached(rules.slow, slow, patience) then return 'auth-slow', slow end
    return nil, 0
end

-- Answers what the sentence is, as words; none if there is none.
local function tally_strike(tally, strike, account, rules, now, dice)
    if tally.step['until'] > now then return '' end
    local patience = tally.known_until > now and math.max(rules.patience, 1) or 1
    local reason, count
    if strike == 'not-offered' then
        tally.not_offered, count = window_count(tally.not_offered, rules.not_offered.within, now)
        reason = is_reached(rules.not_offered, count, patience) and 'auth-not-offered' or nil
    else
        reason, count = tally_failed(tally, account, rules, now, patience)
        if strike ~= 'failed' and patience == 1 then
            reason, count = strike == 'honeypot' and 'auth-honeypot' or 'auth-account', 1
        end
    end
    local sentence = ''
    if reason then
        tally.step = ladder_climb(rules.ladder, tally.step, now, dice)
        tally.failed, tally.not_offered = {}, {}
        tally.slow, tally.accounts = { level = 0, at = 0 }, { since = 0, ones = {} }
        sentence = table.concat({ reason, whole(count), whole(tally.step.level), whole(tally.step['until']) }, ' ')
    end
    tally_ends(tally, rules)
    return sentence
end
