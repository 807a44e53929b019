"""How fresh a policy keeps the mirror: simulated days in virtual time, with the product's own planner."""
import heapq, random, sys, time
from collections import deque
from datetime import UTC, datetime, timedelta
from rankr_sync import rates as R, visits as V

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)

def world(n, days, seed=7):
    r=random.Random(seed); rates=[]
    for i in range(n):
        u=r.random(); base=1/400 if u<.7 else 1/60 if u<.92 else 1/7 if u<.99 else 2.0
        rates.append(base*r.gammavariate(2,.5))
    ev=[]
    for i,l in enumerate(rates):
        t=r.expovariate(l)
        while t<days: ev.append((t,i)); t+=r.expovariate(l)
    ev.sort(); return rates,ev

def planner(rates, ev, days, per_day, tick=60., recall=0., known=False, false_rate=0., seed=1, warm=8, hist=0., bounds=V.Bounds(timedelta(minutes=15),timedelta(days=7))):
    n=len(rates); r=random.Random(seed)
    prior=R.gamma(); evidence=[R.Evidence()]*n
    rate=[R.step_of(l) for l in rates] if known else [prior.rate(R.Evidence())]*n
    last=[START-timedelta(days=r.random()*n/per_day) for _ in range(n)]
    if hist and not known:
        hr=random.Random(5)
        for i,l in enumerate(rates):
            m=0; x=hr.expovariate(l*hist)
            while x<90: m+=1; x+=hr.expovariate(l*hist)
            evidence[i]=R.Evidence(float(m),90*.5)
        seen={}
        for e in evidence: seen[e]=seen.get(e,0)+1
        prior=R.fit(seen.items(),R.gamma()); rate=[prior.rate(e) for e in evidence]
    queues={}; ver=[0]*n
    def put(i): queues.setdefault(("notes",rate[i]),deque()).append((last[i],i,ver[i]))
    for i in sorted(range(n),key=last.__getitem__): put(i)
    pend=[[] for _ in range(n)]; value=[0.]*n; pre=[False]*n
    counts={}; trust=V.Trust(counts); price=.01; delays=[]; k=0; oldest=timedelta(0)
    urgent=[]; now=START; allowance=0.; used=0; fitted=START
    def visit(i, signal):
        nonlocal oldest,used
        used+=1
        found=len(pend[i])
        if now>=START+warm*DAY:
            oldest=max(oldest,now-last[i])
            for te in pend[i]:
                if te>=warm: delays.append((now-START)/DAY-te)
        pend[i].clear()
        why=V.CHANGED_CONTACT if value[i] else V.BY_INDEX
        s=counts.get(why,V.Sent()); counts[why]=V.Sent(s.visits+1,s.found+(found>0))
        if not known:
            evidence[i]=evidence[i].after((now-last[i])/DAY,found); rate[i]=prior.rate(evidence[i])
        value[i]=0.; last[i]=now; ver[i]+=1; put(i)
    while now<START+days*DAY:
        now+=timedelta(seconds=tick); t=(now-START)/DAY; allowance+=per_day*tick/86400
        while k<len(ev) and ev[k][0]<=t:
            te,i=ev[k]; k+=1; pend[i].append(te)
            if recall and r.random()<recall:
                at=START+te*DAY
                value[i]+=V.worth_of_signal(at-last[i],trust.precision(V.CHANGED_CONTACT))
                due=V.due_after_signal(now,last[i],price,rate[i],trust.recall,value[i])
                heapq.heappush(urgent,(due,i,ver[i]))
        if not known and now-fitted>=DAY:
            fitted=now; seen={}
            for e in evidence:
                key=R.Evidence(round(e.changes),round(e.days)); seen[key]=seen.get(key,0)+1
            prior=R.fit(seen.items(),R.gamma())
        while urgent and urgent[0][0]<=now and allowance>=1:
            _,i,v=heapq.heappop(urgent)
            if ver[i]==v: allowance-=1; visit(i,True)
        count=int(allowance)
        if count<=0: continue
        allowance-=count
        rec={"notes":trust.recall}
        heads={}
        for s,q in queues.items():
            while q and q[0][2]!=ver[q[0][1]]: q.popleft()
            if q: heads[s]=q[0][0]
        def fetch(before):
            out=[]
            for s,until in before.items():
                c=0
                for l,i,v in queues[s]:
                    if l>until or c>=count: break
                    if v==ver[i]: out.append(V.Waiting(s[0],i,l,s[1])); c+=1
            return out
        got,p=V.pick(heads,fetch,now,count,price,rec,bounds)
        if len(got)==count: price=p
        for w in got: visit(w.contact_id,False)
    d=sorted(delays); m=len(d)
    return sum(d)/m*24, d[m//2]*24, d[int(m*.95)]*24, oldest, used/days/n, trust.recall, prior

if __name__=="__main__":
    n=int(sys.argv[1]); 
    for seed in (7,8):
        rates,ev=world(n,20,seed); B=.9*n
        t=time.time(); k=planner(rates,ev,20,B,known=True); print("known %.2f %.2f %.2f"%k[:3],k[3],round(k[4],3),round(time.time()-t,1))
        for kw in ({"hist":.5},{"hist":.25},{"hist":1.}):
            t=time.time(); g=planner(rates,ev,20,B,**kw); print(kw,"%.2f %.2f %.2f"%g[:3],g[3],round(g[4],3),"rec %.2f"%g[5],"/known %.3f /rr %.3f"%(g[0]/k[0],g[0]/13.31),round(time.time()-t,1),flush=True)
