# shares.sh MOUNT: fails if more of anything was taken at a time, by all together, than half of what one user may have. Then the
# limits of users hinder nobody who works as the tests do.
awk '
    match($1, /resource="[^"]*"/) { name = substr($1, RSTART + 10, RLENGTH - 11) }
    /^cardfs_user_limit[{]/ { limit[name] = $NF }
    /^cardfs_shared_most[{]/ { most[name] = $NF }
    END {
        for (name in limit) {
            count++
            if (2 * most[name] > limit[name]) { print name ": " most[name] " of " limit[name]; over = 1 }
        }
        if (count < 7) print "only " count + 0 " limits are told of"
        exit over || count < 7
    }
' "$1/metrics.prom"
