# Whether Redis answers, its data loaded.
REDISCLI_AUTH=$(cat /secrets/operator)
export REDISCLI_AUTH
redis-cli --user operator ping | grep -q '^PONG$'
